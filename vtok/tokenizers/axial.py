"""The residual block of VideoGPT's VQ-VAE (https://arxiv.org/abs/2104.10157): convolutions, then axial attention.

Axial attention (https://arxiv.org/abs/1912.12180) looks along one axis at a time; here the three axes are looked at
side by side and summed. Sub-module names are the original's, so its state dicts load by name. As in `layers.py`, no
layer draws its weights when it is built: `draw_attention` does.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vtok.tokenizers.layers import SamePadConv3d, draw_uniform_
from vtok.tokenizers.norm import Norm, normalise

HEADS = 2
_POSITION_STD = 0.01
Axis = Literal["t", "h", "w"]
_AXES: dict[Axis, int] = {"t": 1, "h": 2, "w": 3}


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Left to `draw_attention`."""


class AxisAttention(nn.Module):
    """Multi-head self-attention along one axis of a channels-last volume; the other axes are batch.

    No mask, no positions, no dropout. The heads split the channels evenly.
    """

    def __init__(self, channels: int, heads: int, axis: Axis) -> None:
        super().__init__()
        self.heads, self.axis = heads, _AXES[axis]
        self.w_qs = _Linear(channels, channels, bias=False)
        self.w_ks = _Linear(channels, channels, bias=False)
        self.w_vs = _Linear(channels, channels, bias=False)
        self.fc = _Linear(channels, channels)

    def forward(self, x_bthwc: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        q, k, v = (self._split(w(x_bthwc)) for w in (self.w_qs, self.w_ks, self.w_vs))
        # The axes are short (a latent grid's sides), so the scores fit: no fused kernel, whose batch CUDA limits.
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        mixed = scores.softmax(-1) @ v
        return self.fc(mixed.movedim(-3, -2).flatten(-2).movedim(-2, self.axis))

    def _split(self, x_bthwc: Tensor) -> Tensor:
        """Two of the axes, then heads, positions along this one's axis, channels of a head."""
        return x_bthwc.movedim(self.axis, -2).unflatten(-1, (self.heads, -1)).movedim(-2, -3)


class Positions(nn.Module):
    """A learnt vector for every place of a latent grid: a third of its channels from each of t, h and w."""

    def __init__(self, grid: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.t, self.h, self.w = (nn.Parameter(torch.zeros(side, channels // 3)) for side in grid)

    def forward(self) -> Float[Tensor, "t h w c"]:
        sides = (len(self.t), len(self.h), len(self.w))
        parts = (self.t[:, None, None], self.h[:, None], self.w)
        return torch.cat([part.expand(*sides, -1) for part in parts], -1)


class AxialBlock(nn.Module):
    """attn_w(x) + attn_h(x) + attn_t(x), of x plus its positions where there are some.

    Args:
        positions: shared by all blocks; a module of its owner's, not of this one.
    """

    def __init__(self, channels: int, heads: int = HEADS, positions: Positions | None = None) -> None:
        super().__init__()
        self._positions = (positions,)  # a tuple hides it from the module, so it has one name in the state dict
        self.attn_w = AxisAttention(channels, heads, "w")
        self.attn_h = AxisAttention(channels, heads, "h")
        self.attn_t = AxisAttention(channels, heads, "t")

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        x_bthwc = x.movedim(1, -1)
        (positions,) = self._positions
        if positions is not None:
            x_bthwc = x_bthwc + positions()
        return (self.attn_w(x_bthwc) + self.attn_h(x_bthwc) + self.attn_t(x_bthwc)).movedim(-1, 1)


class AttentionResidualBlock(nn.Module):
    """x + block(x): norm-ReLU-conv3 to `inner` channels, norm-ReLU-conv1 back, norm-ReLU-attention; zero padding.

    Args:
        inner: None: half of `channels`.
        positions: see `AxialBlock`.
    """

    def __init__(self, channels: int, norm: Norm, inner: int | None = None, positions: Positions | None = None) -> None:
        super().__init__()
        inner = channels // 2 if inner is None else inner
        self.block = nn.Sequential(
            normalise(norm, channels),
            nn.ReLU(),
            SamePadConv3d(channels, inner, 3, padding="constant", bias=False),
            normalise(norm, inner),
            nn.ReLU(),
            SamePadConv3d(inner, channels, 1, padding="constant", bias=False),
            normalise(norm, channels),
            nn.ReLU(),
            AxialBlock(channels, positions=positions),
        )

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        return x + self.block(x)


@torch.no_grad()
def draw_attention(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every attention of `module`: weights from N(0, 1/sqrt(channels)), the bias as torch's linear layers do.

    Positions come from N(0, 0.01).
    """
    for layer in module.modules():
        if isinstance(layer, Positions) and not layer.t.is_meta:
            for side_nc in (layer.t, layer.h, layer.w):
                side_nc.normal_(0, _POSITION_STD, generator=generator)
        if isinstance(layer, _Linear) and not layer.weight.is_meta:
            std = 1 / math.sqrt(layer.in_features)
            values = torch.randn(layer.weight.shape, device=generator.device, generator=generator)
            layer.weight.copy_(values * std)
            if layer.bias is not None:
                draw_uniform_(layer.bias, std, generator)
