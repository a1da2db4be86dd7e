"""Between pixels (uint8, frames first) and what models see (float32 in [-0.5, 0.5], channels first)."""

from __future__ import annotations

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, UInt8


def to_model_range(videos_bthwc: UInt8[np.ndarray, "b t h w c"]) -> Float32[np.ndarray, "b c t h w"]:
    """x / 255 - 0.5, contiguous."""
    videos_bcthw = np.ascontiguousarray(rearrange(videos_bthwc, "b t h w c -> b c t h w"), dtype=np.float32)
    return videos_bcthw / np.float32(255) - np.float32(0.5)


def to_pixels(videos_bcthw: Float[np.ndarray, "b c t h w"]) -> UInt8[np.ndarray, "b t h w c"]:
    """round(255 (x + 0.5)), clipped to 0..255."""
    scaled = np.rint((videos_bcthw + 0.5) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(rearrange(scaled, "b c t h w -> b t h w c"))
