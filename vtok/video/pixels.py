"""What libswscale is asked for, and its answer as arrays: every pixel written, every colour right.

libswscale has two ways to RGB. Its *converter* takes 8-bit 4:2:0 and 4:2:2 of even height at their own size, and is
several times as fast as the rest of the work; its *scaler* takes everything else.

The converter works on blocks of columns and leaves the last ones out where a row of the result has no room for a whole
block: with FFmpeg 8.1 on x86-64 the last 1 to 4 of rgb0 and up to 7 of planar RGB, elsewhere the last of an odd number.
So it is asked for packed RGB only, and a frame whose last columns count is copied into one as wide as a whole number of
blocks first. It treats every pair of columns alone: what lies beyond the frame's edge changes nothing.

The scaler is asked for planar RGB and accurate rounding, which are right within half a level and fast. Its packed RGB
is up to 3 levels off at even widths (white is 253) and, at odd ones, three times as slow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from vtok.video.geometry import Geometry

Layout = Literal["rgb0", "rgb24", "gbrp"]

_CONVERTER = frozenset({"yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p", "yuva422p"})
_BLOCK, _SAFE = 8, 32  # columns: the smallest block of any processor; a width that all of them fill
_BILINEAR, _ACCURATE_RND = 0x2, 0x40000  # libswscale's numbers: PyAV has had a name for the second since version 18


class Conversion(NamedTuple):
    """What libswscale makes of frames of one format and size.

    Attributes:
        layout: FFmpeg's name of the pixel format.
        height, width: pixels of the result, before the frame is turned upright.
        padded: to this width, in pixels, the frame is widened before it is converted; as `width`: not at all.
    """

    layout: Layout
    height: int
    width: int
    padded: int

    @property
    def flags(self) -> int:
        """libswscale's flags."""
        return _BILINEAR | _ACCURATE_RND if self.layout == "gbrp" else _BILINEAR

    @property
    def filter_flags(self) -> str:
        """The same for the ffmpeg program."""
        return "bilinear+accurate_rnd" if self.layout == "gbrp" else "bilinear"

    def unpadded(self) -> Conversion:
        """For the ffmpeg program, whose rows have room for whole blocks."""
        return self._replace(padded=self.width)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without padding, all planes together."""
        return self.padded * (4 if self.layout == "rgb0" else 3)


def plan(geometry: Geometry, name: str, height: int, width: int) -> Conversion:
    """How frames become RGB.

    Args:
        geometry: what is to be done to them.
        name: FFmpeg's name of their pixel format.
        height, width: of the frames, pixels.

    Raises:
        VideoError: too_large.
    """
    rows, columns = geometry.scaled_size(height, width)
    if name not in _CONVERTER or (rows, columns) != (height, width) or height % 2:
        return Conversion("gbrp", rows, columns, columns)
    layout: Layout = "rgb0" if geometry.resizes_here else "rgb24"
    whole = geometry.last_column(height, width) <= width - width % _BLOCK
    return Conversion(layout, rows, columns, columns if whole else -(-columns // _SAFE) * _SAFE)


def views(conversion: Conversion, planes: Sequence[tuple[bytes | memoryview, int]]) -> list[np.ndarray]:
    """The pixels in a decoder's buffers, without a copy, as `Geometry.finish` takes them.

    Args:
        conversion: what was asked for.
        planes: a buffer a plane, and the bytes from one row of it to the next.
    """
    height, width = conversion.height, conversion.width
    found: list[np.ndarray] = []
    for data, stride in planes:
        if conversion.layout == "rgb0":
            found.append(np.frombuffer(data, np.uint32).reshape(-1, stride // 4)[:height, :width])
        elif conversion.layout == "rgb24":
            rows = np.frombuffer(data, np.uint8).reshape(-1, stride)[:height, : width * 3]
            found.append(rows.reshape(height, width, 3))
        else:
            found.append(np.frombuffer(data, np.uint8).reshape(-1, stride)[:height, :width])
    if conversion.layout == "gbrp":
        green, blue, red = found
        return [red, green, blue]
    return found


def piped_views(conversion: Conversion, data: bytes) -> list[np.ndarray]:
    """The same for a frame of `-f rawvideo`: its planes one after the other, without padding."""
    count = 3 if conversion.layout == "gbrp" else 1
    stride = conversion.row_bytes // count
    size = stride * conversion.height
    return views(conversion, [(memoryview(data)[i * size : (i + 1) * size], stride) for i in range(count)])


@functools.cache
def one_thread() -> dict[str, Any]:
    """What tells `reformat` to start no threads; a PyAV that starts none there does not know the word."""
    try:
        VideoReformatter().reformat(VideoFrame(16, 16, "gray"), 8, 8, threads=1)
    except TypeError:
        return {}
    return {"threads": 1}


class Converter:
    """Converts PyAV's frames; not for use by two threads at once.

    Args:
        geometry: what is to be done to them.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._reformatter, self._one_thread = VideoReformatter(), one_thread()
        self._plans: dict[tuple[str, int, int], Conversion] = {}

    def __call__(self, frame: VideoFrame) -> list[np.ndarray]:
        """The frame as `Geometry.finish` takes it; the arrays hold its memory.

        Raises:
            VideoError: too_large.
        """
        key = frame.format.name, frame.height, frame.width
        conversion = self._plans.get(key)
        if conversion is None:
            self._plans = {key: (conversion := plan(self._geometry, *key))}
        if conversion.padded != conversion.width:
            frame = _widened(frame, conversion.padded)
        # libswscale takes matrix and range from the frame; without a matrix it uses BT.601, like the ffmpeg program.
        rgb = self._reformatter.reformat(
            frame,
            conversion.padded,
            conversion.height,
            conversion.layout,
            interpolation=conversion.flags,
            dst_color_range=ColorRange.JPEG,
            **self._one_thread,
        )
        return views(conversion, [(memoryview(plane), plane.line_size) for plane in rgb.planes])


def _widened(frame: VideoFrame, width: int) -> VideoFrame:
    """A copy with columns of no account at its right."""
    wide = VideoFrame(width, frame.height, frame.format.name)
    wide.colorspace, wide.color_range = frame.colorspace, frame.color_range
    for plane, room in zip(frame.planes, wide.planes, strict=True):
        source = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        target = np.frombuffer(memoryview(room), np.uint8).reshape(-1, room.line_size)
        columns = min(plane.line_size, room.line_size)
        target[:, :columns] = source[: len(target), :columns]
    return wide
