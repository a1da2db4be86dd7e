"""Sound: how it becomes spectra, and which tokenizer encodes it beside the frames."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.config.base import Config


class SpectrumConfig(Config):
    """One spectrum a frame: a "video" of one channel that a tokenizer of sound sees (`vtok.audio.spectra`)."""

    source: Literal["waveform", "stft"] = Field(
        "waveform",
        description="What the spectra are made of: the clips' `waveform` (needs shards.audio_rate), or the arrays that "
        "lie beside the videos, `stft` (data.layout tats_stft).",
    )
    window: int = Field(
        88, ge=4, le=65_536, multiple_of=2, description="Samples of a Hann window; a column has window / 2 + 1 bins."
    )
    columns: int = Field(17, ge=2, le=1024, description="Windows a frame, from where it begins to where it ends.")
    decibels: float = Field(
        80.0,
        gt=0,
        le=200,
        description="Range of levels below a full-scale sine, dB; fainter is silence.",
    )
    height: int = Field(64, ge=8, le=4096, description="Rows (frequencies) to which a spectrum is resized.")
    width: int = Field(16, ge=8, le=4096, description="Columns (times) to which a spectrum is resized.")


class AudioTokensConfig(Config):
    """Codes of the clips' sound in the token store."""

    tokenizer: str = Field(
        min_length=1, description="Folder of a tokenizer of sound: of its run, or `stft_tokenizer` of a converted one."
    )
    silent: Literal["null", "reject"] = Field(
        "null",
        description="A clip without sound: `null` in audio_codes, counted on the card, or a `reject` (no_sound).",
    )
