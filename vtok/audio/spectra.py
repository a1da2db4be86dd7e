"""From a clip's sound to a "video" of one channel: a spectrum a frame, as TATS has it for AudioSet-Drums.

TATS (https://arxiv.org/abs/2204.03638) is given spectra of 45 bins and 17 columns a frame, in [0, 1], which it scales
to [-1, 1] and resizes to 64x16, bilinear with half-pixel centres; `picture` does the same to the last digit but one.
How those spectra were computed was never published. `spectra` makes some of that shape from a waveform, by choices of
our own: `columns` Hann windows of `window` samples are centred evenly from where a frame begins to where it ends, so
the last one of a frame is the first one of the next; levels in dB below a full-scale sine become 1 (full scale) to 0
(`decibels` below it, or fainter). Phases are dropped, so there is no way back to a waveform.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int16, Shaped

from schemas.config.audio import SpectrumConfig
from schemas.errors import UsageError
from vtok.video.transforms import resize

SPECTRUM_RANGE = (-1.0, 1.0)
"""Of a picture: silence and full scale."""
_FULL_SCALE = 32_768.0


def spectra(
    samples: Int16[np.ndarray, " samples"], num_frames: int, config: SpectrumConfig
) -> Float32[np.ndarray, "t bins columns"]:
    """The spectra of a sound that lasts as long as its frames.

    Args:
        samples: mono, at any rate; the first one is the beginning of the first frame, the last one the end of the last.
        num_frames: frames of equal length that the sound belongs to.
        config: windows and levels.

    Returns:
        float32 (num_frames, window / 2 + 1, columns) in [0, 1]: low frequencies first. What lies before and after the
        sound is silence.
    """
    half, columns = config.window // 2, config.columns
    steps = np.arange(num_frames * (columns - 1) + 1)
    centres = np.rint(steps * (len(samples) / (num_frames * (columns - 1)))).astype(np.int64)
    padded = np.pad(samples.astype(np.float64) / _FULL_SCALE, half)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    windows = padded[centres[:, None] + np.arange(config.window)] * hann
    amplitudes = np.abs(np.fft.rfft(windows, axis=1)) * (2 / hann.sum())
    floor = 10.0 ** (-config.decibels / 20)
    levels = 1 + 20 * np.log10(np.maximum(amplitudes, floor)) / config.decibels
    frames = np.arange(num_frames)[:, None] * (columns - 1) + np.arange(columns)
    return np.clip(levels, 0, 1)[frames].transpose(0, 2, 1).astype(np.float32)


def picture(
    spectra_tbn: Shaped[np.ndarray, "t bins columns"], config: SpectrumConfig
) -> Float32[np.ndarray, "1 t h w"]:
    """Spectra in [0, 1] as a tokenizer of sound sees them: float32 (1, t, height, width) in [-1, 1].

    Raises:
        UsageError: they are no spectra, one a frame.
    """
    if spectra_tbn.ndim != 3 or 0 in spectra_tbn.shape:
        raise UsageError(
            f"an array of shape {list(spectra_tbn.shape)} holds no spectra",
            hint="spectra are (frames, frequencies, times) in [0, 1]",
        )
    scaled = spectra_tbn.astype(np.float32) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(resize(scaled[..., None], config.height, config.width)[None, ..., 0])


def silence(num_frames: int, config: SpectrumConfig) -> Float32[np.ndarray, "1 t h w"]:
    """The picture of no sound at all."""
    return np.full((1, num_frames, config.height, config.width), SPECTRUM_RANGE[0], np.float32)
