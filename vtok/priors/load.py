"""A trained prior from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from vtok import artefacts
from vtok.convert.published import located
from vtok.priors.build import AnyPrior, rebuild
from vtok.weights import read_weights


def load_prior(path_or_name: str | Path, device: str | torch.device = "cpu") -> AnyPrior:
    """The prior of a finished run or of a published checkpoint, of whatever kind, in eval mode, without gradients.

    Args:
        path_or_name: the artefact's folder (holds prior.safetensors, prior.yaml and the card), the run's, or a
            published name (`vtok.convert.published.PUBLISHED`), whose file is converted when it is first used.
        device: where to put it.

    Raises:
        UsageError: no finished prior is there; for a published name, which file is wanted and where.
        IntegrityError: the weights are not those that the card seals.
    """
    folder = located(path_or_name, "prior")
    card = artefacts.load(folder, "prior")
    tensors, description = read_weights(folder, "prior", card)
    prior = rebuild(description, tensors)
    return prior.requires_grad_(False).eval().to(device)
