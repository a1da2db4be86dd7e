"""The sound of a clip of the shards, or of a view of it, as a picture; and batches of them for training."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from schemas.config.audio import SpectrumConfig
from schemas.errors import IntegrityError, UsageError
from vtok.audio.spectra import picture, silence, spectra
from vtok.video.media.audio import wav_sound

WAVEFORM, SPECTRA = "audio.wav", "stft.npy"
"""Members of a sample that hold a sound."""


def sound_picture(
    extras: Mapping[str, bytes], config: SpectrumConfig, num_frames: int, frames: range | None = None
) -> Float32[np.ndarray, "1 t h w"] | None:
    """The picture of a clip's sound; None if it has none.

    Args:
        extras: what a sample holds besides its frames, as bytes by extension (`vtok.shards.reader.Clip.extras`).
        config: what the picture is made of, and its size.
        num_frames: of the clip.
        frames: the frames of a view; none: all. A frame lasts until the next one that the view takes, and nothing
            outside of the view is heard.

    Raises:
        IntegrityError: the member is damaged.
        UsageError: it does not hold a spectrum for every frame.
    """
    frames = frames if frames is not None else range(num_frames)
    member = extras.get(WAVEFORM if config.source == "waveform" else SPECTRA)
    if member is None:
        return None
    try:
        if config.source == "stft":
            array = np.load(io.BytesIO(member), allow_pickle=False)
            if array.ndim != 3 or len(array) != num_frames:
                raise UsageError(
                    f"spectra of shape {list(array.shape)} with a clip of {num_frames} frames",
                    hint="they are (frames, frequencies, times)",
                )
            return picture(array[list(frames)], config)
        samples, _ = wav_sound(bytes(member))
    except (ValueError, EOFError, OSError) as error:
        raise IntegrityError(f"the sound of a clip cannot be read: {error}") from error
    ends = (frames.start, frames.start + len(frames) * frames.step)
    first, last = (round(end * len(samples) / num_frames) for end in ends)
    heard = samples[first:last]
    if len(heard) < last - first:  # the last frame of a stride lasts longer than the clip
        heard = np.pad(heard, (0, last - first - len(heard)))
    return picture(spectra(heard, len(frames), config), config)


def sound_batch(
    extras: Sequence[Mapping[str, bytes]], metas: Sequence[Mapping[str, Any]], config: SpectrumConfig
) -> Float32[np.ndarray, "b 1 t h w"]:
    """The sounds of whole clips for training; a clip without one is silence.

    Args:
        extras: of each clip, see `sound_picture`.
        metas: rows of the manifest.
        config: see `sound_picture`.
    """
    pictures = []
    for members, meta in zip(extras, metas, strict=True):
        found = sound_picture(members, config, meta["num_frames"])
        pictures.append(silence(meta["num_frames"], config) if found is None else found)
    return np.stack(pictures)


def check_shards(card_config: Mapping[str, Any], config: SpectrumConfig, at: str) -> int | None:
    """Makes sure that shards keep the sound that spectra are made of; its rate, samples per second.

    Args:
        card_config: `config` of the shards' card.
        config: of the spectra.
        at: the shards' folder.

    Raises:
        UsageError: they keep none.
    """
    if config.source == "stft":
        return None
    rate = card_config.get("shards", {}).get("audio_rate")
    if rate is None:
        raise UsageError(
            "the shards keep no sound",
            at=at,
            hint="set shards.audio_rate and make them again (`vtok data shard`)",
        )
    return int(rate)
