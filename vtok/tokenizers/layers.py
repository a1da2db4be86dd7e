"""Convolutions with "same" padding, and the residual block of the 3-D VQGAN (TATS, https://arxiv.org/abs/2204.03638).

Sub-module names (`conv`, `convt`, `norm1`, `conv1`, ...) are the original's, so its state dicts load by name. On
purpose, no layer draws its weights when it is built: `draw_weights` does, from a generator, with the distributions of
torch's defaults.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from schemas.errors import UsageError
from vtok.tokenizers.norm import Norm, normalise

Padding = Literal["replicate", "constant", "reflect", "circular"]


def same_padding(kernel: int, stride: tuple[int, int, int]) -> tuple[int, ...]:
    """Padding before and after each axis, in the order that `F.pad` wants (last axis first).

    Every axis gets k - s values, the odd one before: k=4 s=2 gives (1, 1), k=4 s=1 gives (2, 1), k=3 s=1 gives (1, 1).
    """
    pads: list[int] = []
    for s in reversed(stride):
        total = kernel - s
        pads += [total // 2 + total % 2, total // 2]
    return tuple(pads)


def pad_same(x: Float[Tensor, "b c t h w"], pads: tuple[int, ...], mode: Padding) -> Float[Tensor, "b c t2 h2 w2"]:
    """`x` padded by `pads` (see `same_padding`); returned as it is when there is nothing to pad.

    Raises:
        UsageError: reflection or circle, and an axis holds too few values to copy.
    """
    if not any(pads):
        return x
    if mode in ("reflect", "circular"):
        _check_room(x, pads, mode)
    if mode == "replicate" and not torch.is_grad_enabled():
        return _pad_replicate(x, pads)
    return F.pad(x, pads, mode=mode)


def _pad_replicate(x: Tensor, pads: tuple[int, ...]) -> Tensor:
    """`F.pad(x, pads, mode="replicate")`: one copy, then the borders. Outside autograd, channels last."""
    w0, w1, h0, h1, t0, t1 = pads
    b, c, t, h, w = x.shape
    out = x.new_empty((b, t + t0 + t1, h + h0 + h1, w + w0 + w1, c)).movedim(-1, 1)
    out[:, :, t0 : t0 + t, h0 : h0 + h, w0 : w0 + w] = x
    for axis, size, before, after in ((4, w, w0, w1), (3, h, h0, h1), (2, t, t0, t1)):
        if before:
            out.narrow(axis, 0, before).copy_(out.narrow(axis, before, 1).expand_as(out.narrow(axis, 0, before)))
        if after:
            edge = before + size
            out.narrow(axis, edge, after).copy_(out.narrow(axis, edge - 1, 1).expand_as(out.narrow(axis, edge, after)))
    return out


def _check_room(x: Tensor, pads: tuple[int, ...], mode: Padding) -> None:
    for axis, size, widest in zip("thw", x.shape[2:], (max(pads[i : i + 2]) for i in (4, 2, 0)), strict=True):
        least = widest + (mode == "reflect")
        if size < least:
            raise UsageError(
                f"the clip is too small for {mode} padding: a layer finds {size} values along {axis} and needs {least}",
                at="tokenizer.model.padding",
                hint="use longer or larger clips, less downsampling, or replicate padding",
            )


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Left to `draw_weights`."""


_ONEDNN = torch.backends.mkldnn.is_available()


class _Conv3d(nn.Conv3d):
    """nn.Conv3d; on a CPU, outside autograd, always by oneDNN.

    torch gives small convolutions of stride 1 to a slower kernel, but only on one thread: the same clip would get other
    roundings on two. (First convolution of the VQGAN, 16 x 128 x 128, one thread: 42 ms of CPU time instead of 160.)
    """

    padding: tuple[int, ...]

    def reset_parameters(self) -> None:
        """Left to `draw_weights`."""

    def forward(self, input: Tensor) -> Tensor:
        plain = input.device.type == "cpu" and input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if torch.is_grad_enabled() or not plain or not _ONEDNN:
            return super().forward(input)
        settings = (self.padding, self.stride, self.dilation, self.groups)
        return torch.mkldnn_convolution(input, self.weight, self.bias, *settings)


class _ConvTranspose3d(nn.ConvTranspose3d):
    def reset_parameters(self) -> None:
        """Left to `draw_weights`."""


CONVOLUTIONS = {2: _Conv2d, 3: _Conv3d}


class SamePadConv3d(nn.Module):
    """3-D convolution whose output has floor(n / stride) values along every axis of n values.

    So the last values of an axis that the stride does not divide are lost; `encode` refuses such videos.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: Padding = "replicate",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.pads = same_padding(kernel, stride)
        self.padding = padding
        self.conv = _Conv3d(in_channels, out_channels, kernel, stride=stride, bias=bias)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        return self.conv(pad_same(x, self.pads, self.padding))


class SamePadConvTranspose3d(nn.Module):
    """3-D transposed convolution whose output has exactly n * stride values along every axis of n values.

    The input is padded by the rule of `SamePadConv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: tuple[int, int, int],
        padding: Padding = "replicate",
    ) -> None:
        super().__init__()
        self.pads = same_padding(kernel, stride)
        self.padding = padding
        self.convt = _ConvTranspose3d(in_channels, out_channels, kernel, stride=stride, padding=kernel - 1)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        return self.convt(pad_same(x, self.pads, self.padding))


class ResBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))) with 3x3x3 convolutions, replicate padding, equal channels."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = normalise(norm, channels)
        self.conv1 = SamePadConv3d(channels, channels, 3)
        self.norm2 = normalise(norm, channels)
        self.conv2 = SamePadConv3d(channels, channels, 3)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        h = self.conv1(silu(self.norm1(x)))
        return x + self.conv2(silu(self.norm2(h)))


def silu(x: Tensor) -> Tensor:
    """`F.silu(x)`; outside autograd, in place: `x` is a normalisation's output, which nothing else holds."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """`generator`, or a new CPU generator with seed 0: weights never depend on torch's global generator."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def draw_uniform_(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill `tensor` from U(-bound, bound), drawn on the generator's device; a tensor on `meta` is left alone."""
    if not tensor.is_meta:
        values = torch.empty(tensor.shape, device=generator.device).uniform_(-bound, bound, generator=generator)
        tensor.copy_(values)


@torch.no_grad()
def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution of `module` as torch does by default: weight and bias from U(-1/sqrt(fan_in), +).

    Modules are visited in the order of `named_modules`, so one generator gives one set of weights.
    """
    for layer in module.modules():
        if isinstance(layer, (_Conv2d, _Conv3d, _ConvTranspose3d)):
            fan_in = layer.weight.shape[1] * math.prod(layer.weight.shape[2:])
            draw_uniform_(layer.weight, 1 / math.sqrt(fan_in), generator)
            if layer.bias is not None:
                draw_uniform_(layer.bias, 1 / math.sqrt(fan_in), generator)
