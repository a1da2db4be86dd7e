"""A trained prior from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from schemas.config.prior import GptConfig
from schemas.paths import as_path
from vtok import artefacts
from vtok.priors.tats import GptPrior
from vtok.weights import read_weights


def load_prior(folder: str | Path, device: str | torch.device = "cpu") -> GptPrior:
    """The prior of a finished run, in eval mode, without gradients.

    Raises:
        UsageError: no finished prior is there.
        IntegrityError: the weights are not those that the card seals.
    """
    folder = as_path(folder)
    card = artefacts.load(folder, "prior")
    tensors, description = read_weights(folder, "prior", card.index_sha256)
    t, h, w = description["grid"]
    prior = GptPrior(
        GptConfig.model_validate(description["model"]), description["n_codes"], (t, h, w), len(description["classes"])
    )
    prior.load_state_dict(tensors)
    return prior.requires_grad_(False).eval().to(device)
