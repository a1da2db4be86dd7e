"""Frames that the ffmpeg program writes into a pipe: what it is asked for, and the arrays that are made of it.

The program decodes; converting is for `pixels`, so that both decoders' colours are the same whatever is odd about a
format or the program's version. Only where a frame is made smaller on the way (`fast`) from planar YUV, the program's
libswscale does it, because the pipe would cost more: it is told what `pixels` tells its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from vtok.video.geometry import Geometry
from vtok.video.pixels import PACKED, Converter, has_alpha, in_order, plan, rows_of

_BYTE, _COLOURS = 8, 3


class Stored(NamedTuple):
    """What the first frame of a video is like.

    Attributes:
        name: FFmpeg's name of the pixel format.
        height, width: pixels, before the frame is turned upright.
        color_range, colorspace: FFmpeg's numbers of its range and matrix.
    """

    name: str
    height: int
    width: int
    color_range: int
    colorspace: int

    @classmethod
    def of(cls, frame: VideoFrame) -> Stored:
        """Of a decoded frame."""
        return cls(frame.format.name, frame.height, frame.width, int(frame.color_range), int(frame.colorspace))


class PipedFrames:
    """Makes arrays of `-f rawvideo`; not for use by two threads at once.

    Args:
        geometry: what is to be done to the frames.
        stored: what they are like.

    Attributes:
        pixel_format: FFmpeg's name of the format that the program is to write.
        height, width: to which it is to scale frames, pixels; mostly their own size.
        bytes: a frame has in the pipe.

    Raises:
        VideoError: too_large.
    """

    def __init__(self, geometry: Geometry, stored: Stored) -> None:
        self._stored, self._converter = stored, Converter(geometry)
        self.height, self.width = stored.height, stored.width
        self._is_scaled = False
        scaled = geometry.scaled_size(stored.height, stored.width)
        self.pixel_format = stored.name
        if _row_bytes(stored.name, stored.width) is None:  # packed, or with a palette
            self.pixel_format = PACKED.get(stored.name, "gbrap" if has_alpha(stored.name) else "gbrp")
        elif scaled != (stored.height, stored.width) and _is_plain(stored.name):
            conversion = plan(geometry, stored.name, stored.height, stored.width)
            self._is_scaled, self.pixel_format = True, conversion.layout
            self.height, self.width = scaled
        rows = _row_bytes(self.pixel_format, self.width)
        assert rows is not None
        frame = VideoFrame(self.width, self.height, self.pixel_format)
        self._shapes = [(plane.height, columns) for plane, columns in zip(frame.planes, rows, strict=True)]
        self.bytes = sum(height * columns for height, columns in self._shapes)

    def __call__(self, data: bytes) -> list[np.ndarray]:
        """A frame as `Geometry.finish` takes it, good until the next call."""
        planes, start = [], 0
        for height, columns in self._shapes:
            planes.append(np.frombuffer(data, np.uint8, height * columns, start).reshape(height, columns))
            start += height * columns
        if self._is_scaled:
            return in_order(planes)
        frame = VideoFrame(self.width, self.height, self.pixel_format)
        for room, rows in zip(rows_of(frame), planes, strict=True):
            room[: len(rows), : rows.shape[1]] = rows
        if not self.pixel_format.startswith("gbr"):
            frame.color_range, frame.colorspace = self._stored.color_range, self._stored.colorspace
        return self._converter(frame)


def _is_plain(name: str) -> bool:
    """Planar YUV without alpha; grey is not, whose range the program does not heed."""
    kind = VideoFormat(name, 16, 16)
    return name.startswith("yuv") and kind.is_planar and len(kind.components) == _COLOURS


def _row_bytes(name: str, width: int) -> list[int] | None:
    """Bytes of a row of each plane without padding; None for what is not grey or planar, or not of whole bytes."""
    kind = VideoFormat(name, width, 16)
    if kind.has_palette or kind.is_bit_stream or not (kind.is_planar or len(kind.components) == 1):
        return None
    rows: dict[int, int] = {}
    for part in kind.components:
        rows[part.plane] = rows.get(part.plane, 0) + part.width * -(-part.bits // _BYTE)
    return [rows[plane] for plane in sorted(rows)]
