"""Tokenizers of sound: a video tokenizer of one channel, and how the sounds that it sees are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from schemas.config.audio import SpectrumConfig
from schemas.config.base import fingerprint
from schemas.errors import UsageError
from vtok import artefacts
from vtok.convert.published import located
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.load import load_tokenizer

_TATS = SpectrumConfig(source="stft")
"""Of converted checkpoints: TATS's own spectra."""


class AudioFacts(NamedTuple):
    """What decides the codes of a sound.

    Attributes:
        fingerprint: sha256 over the tokenizer's fingerprint, the spectra and the rate.
        codebook_size: codes are below this.
        spectrum: how pictures are made.
        audio_rate: samples per second of the sounds; none: spectra are given, not made.
    """

    fingerprint: str
    codebook_size: int
    spectrum: SpectrumConfig
    audio_rate: int | None

    def plain(self) -> dict[str, Any]:
        """As JSON-compatible values, for plans, footers and cards."""
        return {**self._asdict(), "spectrum": self.spectrum.plain()}


class AudioTokenizer(NamedTuple):
    """A tokenizer of sound, in eval mode.

    Attributes:
        network: encodes pictures of sounds, float (b, 1, t, h, w) in [-1, 1].
        facts: what decides its codes.
    """

    network: VideoAutoencoder
    facts: AudioFacts

    def grid(self, num_frames: int) -> tuple[int, int, int]:
        """Codes (t, h, w) of the sound of that many frames.

        Raises:
            ValueError: they do not divide by a downsampling factor.
        """
        return self.network.grid(num_frames, self.facts.spectrum.height, self.facts.spectrum.width)


def audio_facts(card_facts: Mapping[str, Any]) -> AudioFacts:
    """What the card of a tokenizer says; one that says nothing of spectra is TATS's."""
    spectrum = SpectrumConfig.model_validate(card_facts["spectrum"]) if "spectrum" in card_facts else _TATS
    rate = card_facts.get("audio_rate")
    deciding = {"tokenizer": card_facts["fingerprint"], "spectrum": spectrum.plain(), "audio_rate": rate}
    return AudioFacts(fingerprint(deciding), card_facts["codebook_size"], spectrum, rate)


def read_audio_facts(path: str | Path) -> AudioFacts:
    """What decides the codes of the tokenizer in a folder, without loading its weights.

    Raises:
        UsageError: no finished tokenizer is there.
        IntegrityError: its card is damaged.
    """
    return audio_facts(artefacts.load(located(path, "tokenizer"), "tokenizer").facts)


def load_audio_tokenizer(path: str | Path, device: str | torch.device = "cpu") -> AudioTokenizer:
    """The tokenizer of sound in a folder (see `vtok.tokenizers.load.load_tokenizer`).

    Raises:
        UsageError: no finished tokenizer is there, or it is one of pictures.
        IntegrityError: the weights are not those that the card seals.
    """
    network = load_tokenizer(path, device)
    if network.config.image_channels != 1:
        raise UsageError(
            f"this tokenizer sees videos of {network.config.image_channels} channels, no sound",
            at=str(path),
            hint="give the folder of one that was trained with tokenizer.spectrum",
        )
    return AudioTokenizer(network, read_audio_facts(path))
