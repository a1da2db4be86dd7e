"""Features of conditioning frames: the 3-D ResNet-34 of VideoGPT (https://arxiv.org/abs/2104.10157).

Blocks and names are the original's: no bias, layer normalisation over channels, a projection at the start of every
group, a quarter of the height and width at the end.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS, BLOCKS, STRIDES = (64, 128, 256), (3, 4, 6, 3), (1, 2, 2, 1)


class _ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every place, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_bcthw: Tensor) -> Tensor:
        return self.norm(x_bcthw.movedim(1, -1).float()).to(x_bcthw.dtype).movedim(-1, 1)


class _NormRelu(nn.Module):
    def __init__(self, width: int, *, relu: bool = True) -> None:
        super().__init__()
        self.norm, self.relu = _ChannelNorm(width), relu

    def forward(self, x_bcthw: Tensor) -> Tensor:
        x_bcthw = self.norm(x_bcthw)
        return F.relu(x_bcthw) if self.relu else x_bcthw


class _Block(nn.Module):
    """relu(x + f(x)), with a projected shortcut where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        strides = (1, stride, stride)
        if project:
            self.proj_conv = nn.Conv3d(width_in, width, 1, strides, bias=False)
            self.proj_bnr = _NormRelu(width, relu=False)
        self.project = project
        self.conv1 = nn.Conv3d(width_in, width, 3, strides, padding=1, bias=False)
        self.bnr1 = _NormRelu(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bnr2 = _NormRelu(width)

    def forward(self, x_bcthw: Tensor) -> Tensor:
        shortcut = self.proj_bnr(self.proj_conv(x_bcthw)) if self.project else x_bcthw
        out = self.bnr2(self.conv2(self.bnr1(self.conv1(x_bcthw))))
        return F.relu(shortcut + out)


class _Group(nn.Module):
    def __init__(self, width_in: int, width: int, count: int, stride: int) -> None:
        super().__init__()
        self.start_block = _Block(width_in, width, stride, project=True)
        self.blocks = nn.ModuleList(_Block(width, width, 1, project=False) for _ in range(count - 1))

    def forward(self, x_bcthw: Tensor) -> Tensor:
        x_bcthw = self.start_block(x_bcthw)
        for block in self.blocks:
            x_bcthw = block(x_bcthw)
        return x_bcthw


class FrameEncoder(nn.Module):
    """Frames to features at a quarter of their height and width.

    Args:
        width: channels of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (*WIDTHS, width)
        self.stem = nn.Sequential(nn.Conv3d(3, widths[0], 3, padding=1, bias=False), _NormRelu(widths[0]))
        self.group1 = _Group(widths[0], widths[0], BLOCKS[0], STRIDES[0])
        self.group2 = _Group(widths[0], widths[1], BLOCKS[1], STRIDES[1])
        self.group3 = _Group(widths[1], widths[2], BLOCKS[2], STRIDES[2])
        self.group4 = _Group(widths[2], widths[3], BLOCKS[3], STRIDES[3])

    @staticmethod
    def side(resolution: int) -> int:
        """Height and width of the features of frames of this height and width."""
        return math.ceil(math.ceil(resolution / 2) / 2)

    def forward(self, frames_bcthw: Float[Tensor, "b 3 f r r"]) -> Float[Tensor, "b c f s s"]:
        """Pixels in [-0.5, 0.5] to features."""
        x_bcthw = self.stem(frames_bcthw)
        for group in (self.group1, self.group2, self.group3, self.group4):
            x_bcthw = group(x_bcthw)
        return x_bcthw

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator) -> None:
        """torch's own initial weights of convolutions, from a generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d) and not module.weight.is_meta:
                bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
                weight = torch.empty(module.weight.shape).uniform_(-bound, bound, generator=generator)
                module.weight.copy_(weight)
