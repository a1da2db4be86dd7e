"""How close a reconstruction is to its clip."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

SSIM_LEAST_SIDE = 11
"""Pixels that both sides of a frame must have for SSIM's window."""

_FLAT = 1e-6
"""Added to both energies of `sharpness`, so that nothing is divided by 0: a grey level's step every fifteen pixels."""


def psnr(recon_bcthw: Float[Tensor, "b c t h w"], video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each clip, dB: 10 log10(1 / mean squared error), values in [-0.5, 0.5].

    The reconstruction is clamped to the range of pixels first.
    """
    recon = recon_bcthw.clamp(-0.5, 0.5)
    pairs = zip(recon, video_bcthw, strict=True)
    return torch.stack([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs])


def ssim(recon_bcthw: Float[Tensor, "b c t h w"], video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """Structural similarity (https://doi.org/10.1109/TIP.2003.819861) of each clip, at most 1: the mean of its frames.

    Gaussian window of 11 pixels and sigma 1.5, values in [-0.5, 0.5]; the reconstruction is clamped to them first. Both
    sides must have `SSIM_LEAST_SIDE` pixels or more.
    """
    recon = recon_bcthw.clamp(-0.5, 0.5)
    clips = zip(recon.movedim(2, 1), video_bcthw.movedim(2, 1), strict=True)
    return torch.stack([_ssim_of_frames(a, b) for a, b in clips])


def sharpness(recon_bcthw: Float[Tensor, "b c t h w"], video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """Gradient energy of each reconstruction by that of its clip: 1 as sharp as the original, below 1 blurred.

    The energy is the mean squared difference of neighbouring pixels, along both sides of a frame. It tells blur from
    detail but not detail from noise: above 1, look at the pictures. The reconstruction is clamped to the range of
    pixels first.
    """
    return (_gradient_energy(recon_bcthw.clamp(-0.5, 0.5)) + _FLAT) / (_gradient_energy(video_bcthw) + _FLAT)


def _gradient_energy(video_bcthw: Tensor) -> Tensor:
    sides = [video_bcthw.diff(dim=axis).square().flatten(1).mean(1) for axis in (3, 4)]
    return sides[0] + sides[1]


def _ssim_of_frames(a_tchw: Tensor, b_tchw: Tensor) -> Tensor:
    value = structural_similarity_index_measure(a_tchw, b_tchw, data_range=1.0)
    assert isinstance(value, Tensor)
    return value


def psnr_of_best_constant_frame(video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """PSNR that the best still picture reaches on each clip, dB: its mean frame, shown all the time.

    A tokenizer must beat it clearly, or it has not learnt the motion.
    """
    still = video_bcthw.mean(dim=2, keepdim=True).expand_as(video_bcthw)
    return psnr(still, video_bcthw)
