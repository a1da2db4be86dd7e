"""Clips of any length through the VQGAN (TATS, https://arxiv.org/abs/2204.03638) in bounded memory: chunk by chunk.

A code depends on a limited stretch of frames, a frame on a limited stretch of codes. So a chunk is computed with that
much around it (the halo), which is then cut off; at the ends of the clip there is no halo, and layers pad there as they
do in the whole clip. The result is that of the whole clip, up to the rounding of a convolution. Where a result depends
on the whole clip, chunks are refused: group norm, padding in a circle, VideoGPT's attention over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from vtok.tokenizers.autoencoder import VideoAutoencoder, strides
from vtok.tokenizers.base import Mode
from vtok.tokenizers.layers import same_padding

CHUNK = 16
"""Codes along time in a chunk, unless told otherwise."""


class Halo(NamedTuple):
    """Codes along time before and after a chunk that its result depends on."""

    before: int
    after: int


def encoder_halo(config: VqganConfig) -> Halo:
    """What the codes of a chunk depend on besides its own frames, in codes (of `downsample[0]` frames each).

    Raises:
        UsageError: codes depend on the whole clip.
    """
    _check(config)
    first, last = 0, 0  # the frames behind code 0, found from the last layer to the first
    for stride in reversed(strides(config.downsample)):
        first, last = first - 2, last + 2  # the residual block: two convolutions of 3
        before = _pad_before(4, stride)
        first, last = first * stride[0] - before, last * stride[0] - before + 3
    first, last = first - 1, last + 1  # conv_first
    frames = config.downsample[0]
    return Halo(math.ceil(-first / frames), math.ceil((last - frames + 1) / frames))


def decoder_halo(config: VqganConfig) -> Halo:
    """What the frames of a chunk depend on besides its own codes, in codes.

    Raises:
        UsageError: frames depend on the whole clip.
    """
    _check(config)
    first, last = -1, config.downsample[0]  # the frames of code 0, and conv_last around them
    for stride in reversed(strides(config.downsample)):
        first, last = first - 4, last + 4  # two residual blocks
        before, s = _pad_before(4, stride), stride[0]
        # Output o of a transposed convolution (kernel 4, padding 3) has the inputs i with 0 <= o + 3 - i s <= 3.
        first, last = math.ceil(first / s) - before, (last + 3) // s - before
    return Halo(-first, last)


def encode_chunks(
    tokenizer: VideoAutoencoder,
    read: Callable[[int, int], Float[Tensor, "b c t h w"]],
    num_frames: int,
    chunk: int = CHUNK,
    mode: Mode = "exact",
) -> Iterator[Int[Tensor, "b t h w"]]:
    """The codes of a clip, `chunk` time steps at a time; memory does not depend on the clip's length.

    Args:
        tokenizer: a VQGAN in eval mode, with batch norm.
        read: `read(start, stop)` gives these frames in [-0.5, 0.5], on the tokenizer's device. Starts never decrease.
        num_frames: of the clip; divisible by the downsampling of time.
        chunk: codes along time that come at once, besides their halo.
        mode: of `tokenizer.encode`; codes are those of the whole clip in exact mode alone.

    Yields:
        int64 codes, in order; together they are `tokenizer.encode` of the whole clip.

    Raises:
        UsageError: the tokenizer's codes depend on the whole clip, or the length does not divide.
        RuntimeError: the tokenizer is in training mode.
    """
    frames = tokenizer.config.downsample[0]
    halo = encoder_halo(_vqgan(tokenizer))
    if num_frames % frames:
        raise UsageError(
            f"{num_frames} frames are not divisible by the downsampling factor {frames}",
            hint=f"cut the clip to {num_frames // frames * frames} frames",
        )
    for start, stop, left, right in _chunks(num_frames // frames, chunk, halo):
        codes_bthw = tokenizer.encode(read(left * frames, right * frames), mode)
        yield codes_bthw[:, start - left : stop - left]


@torch.no_grad()
def decode_chunks(
    tokenizer: VideoAutoencoder, codes_bthw: Int[Tensor, "b t h w"], chunk: int = CHUNK
) -> Iterator[Float[Tensor, "b c t h w"]]:
    """The video of codes, the frames of `chunk` codes at a time; memory does not depend on the clip's length.

    Args:
        tokenizer: a VQGAN in eval mode, with batch norm.
        codes_bthw: codes of a clip of any length, on the tokenizer's device.
        chunk: codes along time whose frames come at once.

    Yields:
        Frames around [-0.5, 0.5], not clamped; together they are `tokenizer.decode(codes_bthw)`.

    Raises:
        UsageError: the tokenizer's frames depend on the whole clip.
        RuntimeError: the tokenizer is in training mode.
    """
    frames = tokenizer.config.downsample[0]
    halo = decoder_halo(_vqgan(tokenizer))
    for start, stop, left, right in _chunks(codes_bthw.shape[1], chunk, halo):
        video_bcthw = tokenizer.decode(codes_bthw[:, left:right])
        yield video_bcthw[:, :, (start - left) * frames : (stop - left) * frames]


def encode_long(
    tokenizer: VideoAutoencoder,
    video_bcthw: Float[Tensor, "b c t h w"],
    chunk: int = CHUNK,
    mode: Mode = "exact",
) -> Int[Tensor, "b t2 h2 w2"]:
    """`tokenizer.encode(video_bcthw)` in chunks; see `encode_chunks`. The video may lie on another device."""
    device = tokenizer.device
    parts = encode_chunks(
        tokenizer, lambda start, stop: video_bcthw[:, :, start:stop].to(device), video_bcthw.shape[2], chunk, mode
    )
    return torch.cat(list(parts), 1)


def decode_long(
    tokenizer: VideoAutoencoder, codes_bthw: Int[Tensor, "b t h w"], chunk: int = CHUNK
) -> Float[Tensor, "b c t2 h2 w2"]:
    """`tokenizer.decode(codes_bthw)` in chunks; see `decode_chunks`. The frames are gathered on the CPU."""
    return torch.cat([part.cpu() for part in decode_chunks(tokenizer, codes_bthw, chunk)], 2)


def _vqgan(tokenizer: VideoAutoencoder) -> VqganConfig:
    if tokenizer.training:
        raise RuntimeError("chunks need eval mode: call tokenizer.eval() first")
    _check(tokenizer.config)
    assert isinstance(tokenizer.config, VqganConfig)
    return tokenizer.config


def _check(config: VqganConfig | VqvaeConfig) -> None:
    reason = ""
    if isinstance(config, VqvaeConfig):
        reason = "VideoGPT's attention looks at the whole clip"
    elif config.norm == "group":
        reason = "group norm takes its statistics over the whole clip"
    elif config.padding == "circular":
        reason = "circular padding joins the clip's end to its start"
    if reason:
        raise UsageError(
            f"this tokenizer cannot work in temporal chunks: {reason}",
            at="tokenizer.model",
            hint="encode and decode clips of the trained length as a whole, or use a VQGAN with norm: batch",
        )


def _pad_before(kernel: int, stride: tuple[int, int, int]) -> int:
    """Values that a layer pads before time: `same_padding` lists the last axis first."""
    return same_padding(kernel, stride)[4]


def _chunks(total: int, chunk: int, halo: Halo) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, left, right) of every chunk in codes: what to keep, and what to compute."""
    if chunk < 1:
        raise UsageError(f"a chunk has at least 1 code along time, not {chunk}")
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        yield start, stop, max(0, start - halo.before), min(total, stop + halo.after)
