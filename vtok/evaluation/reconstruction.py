"""How close a reconstruction is to its clip."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio


def psnr(recon_bcthw: Float[Tensor, "b c t h w"], video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each clip, dB: 10 log10(1 / mean squared error), values in [-0.5, 0.5].

    The reconstruction is clamped to the range of pixels first.
    """
    recon = recon_bcthw.clamp(-0.5, 0.5)
    pairs = zip(recon, video_bcthw, strict=True)
    return torch.stack([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs])


def psnr_of_best_constant_frame(video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """PSNR that the best still picture reaches on each clip, dB: its mean frame, shown all the time.

    A tokenizer must beat it clearly, or it has not learnt the motion.
    """
    still = video_bcthw.mean(dim=2, keepdim=True).expand_as(video_bcthw)
    return psnr(still, video_bcthw)
