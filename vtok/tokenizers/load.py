"""A trained tokenizer from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from schemas.config.tokenizer import VqganConfig
from schemas.errors import IntegrityError
from schemas.paths import as_path
from vtok import artefacts
from vtok.tokenizers.vqgan import VQGAN
from vtok.weights import read_weights


def load_tokenizer(folder: str | Path, device: str | torch.device = "cpu") -> VQGAN:
    """The tokenizer of a finished run, in eval mode, without gradients.

    Args:
        folder: the artefact's folder (holds tokenizer.safetensors, tokenizer.yaml and the card).
        device: where to put it.

    Raises:
        UsageError: no finished tokenizer is there.
        IntegrityError: the weights are not those that the card seals.
    """
    folder = as_path(folder)
    card = artefacts.load(folder, "tokenizer")
    tensors, description = read_weights(folder, "tokenizer", card.index_sha256)
    tokenizer = VQGAN(VqganConfig.model_validate(description["model"]))
    tokenizer.load_state_dict(tensors)
    tokenizer.requires_grad_(False).eval()
    if tokenizer.fingerprint != card.facts["fingerprint"]:
        raise IntegrityError("the tokenizer's fingerprint differs from the card", at=str(folder))
    return tokenizer.to(device)
