"""From decoded frames to what a tokenizer sees: resize, centre crop, scale.

Reproduces `preprocess` of VideoGPT (https://arxiv.org/abs/2104.10157), TATS (https://arxiv.org/abs/2204.03638) and,
with `variant="mebt"`, MeBT (https://arxiv.org/abs/2303.11251): the short side becomes `resolution`, bilinear with
half-pixel centres and no antialiasing, then a centre crop. Written in NumPy alone, because it also runs in the light
child processes that decode videos, where importing torch would cost more than the work.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from schemas.errors import VtokError

PIXEL_RANGE = (-0.5, 0.5)
RESIZE_POLICY = "short side, bilinear, half-pixel centres, no antialias, centre crop"
_RGB = 3


def target_size(height: int, width: int, resolution: int, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """Height and width, in pixels, to which a frame is resized before the crop.

    The longer side is ceil(side * resolution / short side) in Python floats, rounding errors included: 25x25 at 56
    gives 57x56, as in the originals. Pixels that are shown `pixel_aspect` times as wide as high count as so much wider.
    """
    if pixel_aspect != 1:
        width = max(1, round(width * pixel_aspect))
    scale = resolution / min(height, width)
    if height < width:
        return resolution, math.ceil(width * scale)
    return math.ceil(height * scale), resolution


class Axis(NamedTuple):
    """Where each output pixel of one axis comes from: before + weight * (after - before)."""

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray

    @property
    def is_copy(self) -> bool:
        return not self.weight.any()


def _axis(size: int, resized: int, resolution: int) -> Axis:
    """The central `resolution` of the `resized` pixels to which an axis of `size` pixels is interpolated."""
    start = (resized - resolution) // 2
    # torch's arithmetic: a float32 scale, and one rounding to float32 after a fused multiply-add.
    scale = float(np.float32(size) / np.float32(resized))
    centres = np.arange(start, start + resolution) + 0.5
    source = np.maximum(centres * scale - 0.5, 0).astype(np.float32)
    before = np.minimum(source.astype(np.int64), size - 1)
    after = np.minimum(before + 1, size - 1)
    return Axis(before, after, source - before.astype(np.float32))


def _resize_crop(frame_hwc: np.ndarray, rows: Axis, columns: Axis) -> Float32[np.ndarray, "r r c"]:
    """One frame of any numeric type, resized and cropped, as float32 of the same range."""
    first, last = columns.before[0], columns.after[-1] + 1
    frame_hwc = frame_hwc[:, first:last]
    top = frame_hwc[rows.before].astype(np.float32)
    if not rows.is_copy:
        bottom = frame_hwc[rows.after].astype(np.float32)
        bottom -= top
        bottom *= rows.weight[:, None, None]
        top += bottom
    left = top[:, columns.before - first]
    if not columns.is_copy:
        right = top[:, columns.after - first]
        right -= left
        right *= columns.weight[None, :, None]
        left += right
    return left


def axes(height: int, width: int, resolution: int, pixel_aspect: float = 1.0) -> tuple[Axis, Axis]:
    """Rows and columns of the central square of a frame after its resize."""
    resized_height, resized_width = target_size(height, width, resolution, pixel_aspect)
    return _axis(height, resized_height, resolution), _axis(width, resized_width, resolution)


def resize(frames_thwc: Shaped[np.ndarray, "t h0 w0 c"], height: int, width: int) -> Float32[np.ndarray, "t h w c"]:
    """Frames of any numeric type, resized to any proportions as above (torch's bilinear, `align_corners=False`)."""
    rows, columns = (_axis(*sides, sides[1]) for sides in zip(frames_thwc.shape[1:3], (height, width), strict=True))
    out = np.empty((len(frames_thwc), height, width, frames_thwc.shape[3]), np.float32)
    for i, frame in enumerate(frames_thwc):
        out[i] = _resize_crop(frame, rows, columns)
    return out


def resize_crop_uint8(
    frames_thwc: UInt8[np.ndarray, "t h w c"], resolution: int, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "t r r c"]:
    """Frames resized and cropped to squares of `resolution`, rounded to the nearest of 0..255: what shards store."""
    count, height, width, channels = frames_thwc.shape
    rows, columns = axes(height, width, resolution, pixel_aspect)
    out = np.empty((count, resolution, resolution, channels), np.uint8)
    for i in range(count):
        out[i] = np.rint(_resize_crop(frames_thwc[i], rows, columns))
    return out


def preprocess(
    video_thwc: Shaped[np.ndarray, "t h w *c"],
    resolution: int,
    num_frames: int | None = None,
    *,
    frame_stride: int = 1,
    channels: int = _RGB,
    variant: Literal["tats", "mebt"] = "tats",
) -> Float32[np.ndarray, "c t2 r r"]:
    """A clip as the tokenizers take it.

    Args:
        video_thwc: uint8 RGB frames (0..255); with `channels` other than 3, a label map (t, h, w) of 0..channels-1.
        resolution: height and width of the result, in pixels.
        num_frames: keep this many raw frames, from the first; None: all.
        frame_stride: of the kept frames, take every n-th (so fewer than `num_frames` remain).
        channels: 3 for RGB; otherwise the number of labels, which become one channel each.
        variant: `tats` subtracts 0.5 always; `mebt` not from label maps, and before the resize (a rounding difference).

    Returns:
        float32 (c, t, r, r), contiguous, in [-0.5, 0.5] (label maps of `mebt`: in [0, 1]).

    Raises:
        VtokError: fewer than `num_frames` frames, or an array that is not as described.
    """
    _check(video_thwc, num_frames, channels)
    kept = video_thwc[:num_frames:frame_stride]
    rows, columns = axes(kept.shape[1], kept.shape[2], resolution)
    out_cthw = np.empty((channels, kept.shape[0], resolution, resolution), np.float32)
    for i, frame in enumerate(kept):
        if channels == _RGB:
            values_hwc = frame.astype(np.float32) / np.float32(255)
        else:
            values_hwc = (frame[..., None] == np.arange(channels)).astype(np.float32)
        if variant == "mebt" and channels == _RGB:
            values_hwc = values_hwc - np.float32(0.5)
        out_cthw[:, i] = _resize_crop(values_hwc, rows, columns).transpose(2, 0, 1)
    if variant == "tats":
        out_cthw -= np.float32(0.5)
    return out_cthw


def _check(video_thwc: np.ndarray, num_frames: int | None, channels: int) -> None:
    where = f"an array of shape {list(video_thwc.shape)} and type {video_thwc.dtype}"
    if channels == _RGB:
        if video_thwc.ndim != 4 or video_thwc.shape[-1] != _RGB or video_thwc.dtype != np.uint8:
            raise VtokError("a video must be uint8 of shape (frames, height, width, 3)", at=where)
    elif video_thwc.ndim != 3 or not np.issubdtype(video_thwc.dtype, np.integer):
        raise VtokError("a label map must be integer of shape (frames, height, width)", at=where)
    elif video_thwc.size and not 0 <= int(video_thwc.min()) <= int(video_thwc.max()) < channels:
        raise VtokError(f"labels must be 0..{channels - 1}", at=where, hint="set channels to the number of labels")
    if num_frames is not None and video_thwc.shape[0] < num_frames:
        raise VtokError(f"{num_frames} frames are needed, the video has {video_thwc.shape[0]}", at=where)
