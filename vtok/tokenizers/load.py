"""Tokenizers by their config: a new one, or a trained one from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter

from schemas.config.tokenizer import TokenizerModelConfig, VqganConfig, VqvaeConfig
from schemas.errors import IntegrityError
from vtok import artefacts
from vtok.convert.published import located
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.vqgan import VQGAN
from vtok.tokenizers.vqvae import VQVAE
from vtok.weights import read_weights


def build_tokenizer(config: VqganConfig | VqvaeConfig, generator: torch.Generator | None = None) -> VideoAutoencoder:
    """A new tokenizer of the config's kind.

    Args:
        config: the architecture.
        generator: draws the initial weights; None: a generator with seed 0.
    """
    return VQVAE(config, generator) if isinstance(config, VqvaeConfig) else VQGAN(config, generator)


def load_tokenizer(path_or_name: str | Path, device: str | torch.device = "cpu") -> VideoAutoencoder:
    """The tokenizer of a finished run or of a published checkpoint, in eval mode, without gradients.

    Args:
        path_or_name: the artefact's folder (holds tokenizer.safetensors, tokenizer.yaml and the card), the run's, or a
            published name (`vtok.convert.published.PUBLISHED`), whose file is converted when it is first used.
        device: where to put it.

    Raises:
        UsageError: no finished tokenizer is there; for a published name, which file is wanted and where.
        IntegrityError: the weights are not those that the card seals, or do not fit their description.
    """
    folder = located(path_or_name, "tokenizer")
    card = artefacts.load(folder, "tokenizer")
    tensors, description = read_weights(folder, "tokenizer", card)
    try:
        model: VqganConfig | VqvaeConfig = TypeAdapter(TokenizerModelConfig).validate_python(description["model"])
        tokenizer = build_tokenizer(model)
        tokenizer.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # torch raises the last where shapes differ
        raise IntegrityError(
            f"the weights do not fit their description: {(str(error).splitlines() or [''])[0]}",
            at=str(folder / "tokenizer.yaml"),
            hint="copy the folder again, or train again",
        ) from error
    tokenizer.requires_grad_(False).eval()
    if tokenizer.fingerprint != card.facts["fingerprint"]:
        raise IntegrityError("the tokenizer's fingerprint differs from the card", at=str(folder))
    return tokenizer.to(device)
