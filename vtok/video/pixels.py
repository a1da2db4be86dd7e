"""What libswscale is asked for, and its answer as arrays: every pixel written, every colour right.

libswscale has two ways to RGB. Its *converter* takes 8-bit 4:2:0 and 4:2:2 of even height at their own size, and is
several times as fast as the rest of the work; its *scaler* takes everything else.

The converter works on blocks of columns and leaves the last ones out where a row of the result has no room for a whole
block: with FFmpeg 8.1 on x86-64 the last 1 to 4 of rgb0 and up to 7 of planar RGB, elsewhere the last of an odd number.
So it is asked for packed RGB only, and a frame whose last columns count is copied into one as wide as a whole number of
blocks first. It treats every pair of columns alone: what lies beyond the frame's edge changes nothing. At other widths
it writes up to 32 bytes past a row's end, into memory that is not there with PyAV below 17, so that a process dies
later: with that any frame is copied whose width is no whole number of blocks.

The scaler is asked for planar RGB and accurate rounding, which are right within half a level and fast. Its packed RGB
is up to 3 levels off at even widths (white is 253) and, at odd ones, three times as slow.

What a frame says of itself counts as far as its matrix and range go. Chroma lies in the middle of the pixels that share
it, and interlaced frames are converted as whole ones: PyAV below 16, and the ffmpeg program unless told, do the same.
libswscale takes grey for full range whatever its tag, so grey of limited range is passed on as the luma of a frame that
has colours. What is transparent is laid over black.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from jaxtyping import UInt8

from vtok.video.geometry import Geometry

Layout = Literal["rgb0", "rgb24", "gbrp"]

SCALER_FLAGS = "bilinear+accurate_rnd"
"""For the ffmpeg program, what this module asks libswscale for."""

_CONVERTER = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"})
_BLOCK, _BLOCKS, _SAFE = 8, 16, 32  # columns: the smallest block of any processor, the largest; a width to copy to
_BILINEAR, _ACCURATE_RND = 0x2, 0x40000  # libswscale's numbers: PyAV has had a name for the second since version 18
PACKED = {"yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "monow": "gray", "monob": "gray"}
"""Formats that hold what planar ones do in another order; they are put in order first."""

_BYTE = 8  # bits
_KINDS = 8  # formats and sizes of frames that are kept in mind
_GREY, _FULL = "gray", "yuvj"
_FULL_RESULT = {"dst_color_range": ColorRange.JPEG}
_LUMA_OF = "yuv420p"  # with the bits and byte order of the grey format behind it: gray10le, yuv420p10le


class Conversion(NamedTuple):
    """What libswscale makes of frames of one format and size.

    Attributes:
        layout: FFmpeg's name of the pixel format.
        height, width: pixels of the result, before the frame is turned upright.
        padded: to this width, in pixels, the frame is widened before it is converted; as `width`: not at all.
        anew: whether the frame is copied first, to be rid of where its chroma is said to lie.
    """

    layout: Layout
    height: int
    width: int
    padded: int
    anew: bool


def plan(geometry: Geometry, name: str, height: int, width: int) -> Conversion:
    """How opaque frames become RGB.

    Args:
        geometry: what is to be done to them.
        name: FFmpeg's name of their pixel format.
        height, width: of the frames, pixels.

    Raises:
        VideoError: too_large.
    """
    rows, columns = geometry.scaled_size(height, width)
    if name not in _CONVERTER or (rows, columns) != (height, width) or height % 2:
        return Conversion("gbrp", rows, columns, columns, is_subsampled(name))
    layout: Layout = "rgb0" if geometry.resizes_here else "rgb24"
    whole = width % _BLOCKS == 0 or (leaves_room() and geometry.last_column(height, width) <= width - width % _BLOCK)
    return Conversion(layout, rows, columns, columns if whole else -(-columns // _SAFE) * _SAFE, not whole)


def is_subsampled(name: str) -> bool:
    """Whether pixels of this format share their chroma."""
    side = 16
    return any((part.width, part.height) != (side, side) for part in VideoFormat(name, side, side).components)


def has_alpha(name: str) -> bool:
    """Whether pixels of this format may be transparent."""
    kind = VideoFormat(name, 16, 16)
    return kind.has_palette or any(part.is_alpha for part in kind.components)


@functools.cache
def one_thread() -> dict[str, Any]:
    """What tells `reformat` to start no threads; a PyAV that starts none there does not know the word."""
    try:
        VideoReformatter().reformat(VideoFrame(16, 16, "gray"), 8, 8, threads=1)
    except TypeError:
        return {}
    return {"threads": 1}


def leaves_room() -> bool:
    """Whether PyAV allocates frames as FFmpeg itself does, with room behind the last row, and not to the byte.

    It has since it leaves the frames' conversion to FFmpeg, threads included.
    """
    return bool(one_thread())


@functools.cache
def knows_full_range() -> bool:
    """Whether `reformat` takes the range from the frame, as PyAV does since version 17."""
    black = VideoFrame(16, 16, "yuv420p")
    for rows, value in zip(rows_of(black), (16, 128, 128), strict=True):
        rows[:] = value
    black.color_range = ColorRange.JPEG
    grey = VideoReformatter().reformat(black, format="rgb24", dst_color_range=ColorRange.JPEG, **one_thread())
    return bool(rows_of(grey)[0][0, 0] > 8)  # 16, or 0 where the range is taken for the limited one


def to_full_range(frame: VideoFrame) -> dict[str, Any]:
    """What tells `reformat` that its result is to be of full range, whichever the frame's is."""
    if knows_full_range():
        return _FULL_RESULT
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith(_FULL)
    if not full:
        return _FULL_RESULT
    # Told this and the result's range, too, such a PyAV forgets the matrix; RGB is of full range anyway.
    return {"src_colorspace": frame.colorspace, "src_color_range": ColorRange.JPEG}


class _Kind(NamedTuple):
    """Frames of one format and size.

    Attributes:
        conversion: how they become RGB; None: they may be transparent.
        luma: for grey, the format whose luma it is, in case its range is the limited one.
        planar: for packed formats, the one that they are put in order as.
    """

    conversion: Conversion | None
    luma: str | None
    planar: str | None


class Converter:
    """Converts PyAV's frames; not for use by two threads at once.

    Args:
        geometry: what is to be done to them.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._reformatter, self._opener, self._one_thread = VideoReformatter(), VideoReformatter(), one_thread()
        self._kinds: dict[tuple[str, int, int], _Kind] = {}
        self._copies: dict[tuple[str, int, int], tuple[VideoFrame, list[np.ndarray]]] = {}

    def __call__(self, frame: VideoFrame) -> list[np.ndarray]:
        """The frame as `Geometry.finish` takes it, good until the next call.

        Raises:
            VideoError: too_large.
        """
        kind = self._kind(frame)
        if kind.luma is not None and frame.color_range == ColorRange.MPEG:
            frame = self._copy(frame, frame.width, kind.luma)
            kind = self._kind(frame)
        elif kind.planar is not None:
            frame = self._opener.reformat(frame, format=kind.planar, **self._one_thread)
            kind = self._kind(frame)
        conversion = kind.conversion
        if conversion is None:
            frame = self._opaque(frame)
            conversion = self._kind(frame).conversion
            assert conversion is not None
        elif conversion.anew or frame.interlaced_frame:
            wide = conversion.padded if conversion.layout != "gbrp" else frame.width
            frame = self._copy(frame, wide, frame.format.name)
        # libswscale takes matrix and range from the frame; without a matrix it uses BT.601, like the ffmpeg program.
        rgb = self._reformatter.reformat(
            frame,
            conversion.padded,
            conversion.height,
            conversion.layout,
            interpolation=_BILINEAR | _ACCURATE_RND if conversion.layout == "gbrp" else _BILINEAR,
            **to_full_range(frame),
            **self._one_thread,
        )
        return _views(conversion, rgb)

    def _kind(self, frame: VideoFrame) -> _Kind:
        key = name, height, width = frame.format.name, frame.height, frame.width
        known = self._kinds.get(key)
        if known is not None:
            return known
        self._geometry.scaled_size(height, width)  # frames too large are refused before anything is done to them
        luma = name.replace(_GREY, _LUMA_OF) if name.startswith(_GREY) else None
        conversion = None if has_alpha(name) else plan(self._geometry, name, height, width)
        if len(self._kinds) == _KINDS:
            self._kinds = {}
        self._kinds[key] = _Kind(conversion, luma, PACKED.get(name))
        return self._kinds[key]

    def _opaque(self, frame: VideoFrame) -> VideoFrame:
        """The frame over black, as planar RGB of its own size."""
        if is_subsampled(frame.format.name) or frame.interlaced_frame:
            frame = self._copy(frame, frame.width, frame.format.name)
        clear = self._opener.reformat(
            frame,
            format="gbrap",
            interpolation=_BILINEAR | _ACCURATE_RND,
            **to_full_range(frame),
            **self._one_thread,
        )
        *colours, alpha = (rows[: frame.height, : frame.width] for rows in rows_of(clear))
        made = VideoFrame(frame.width, frame.height, "gbrp")
        for rows, colour in zip(rows_of(made), colours, strict=True):
            rows[: frame.height, : frame.width] = over_black(colour, alpha)
        return made

    def _copy(self, frame: VideoFrame, width: int, name: str) -> VideoFrame:
        """The same picture in a frame of its own, which says nothing but matrix and range.

        What lies beyond the picture's right edge is of no account. Of grey it is the luma, its chroma is neutral.
        """
        key = name, frame.height, width
        if key not in self._copies:
            copy = VideoFrame(width, frame.height, name)
            room = rows_of(copy)
            for rows, part in zip(room, copy.format.components, strict=False):
                (rows if part.bits == _BYTE else rows.view(np.uint16))[:] = 1 << (part.bits - 1)
            self._copies = {key: (copy, room)}
        copy, room = self._copies[key]
        planes = rows_of(frame)
        copy.color_range = frame.color_range
        if len(planes) == len(room):
            copy.colorspace = frame.colorspace
        for source, target in zip(planes, room, strict=False):
            columns, height = min(source.shape[1], target.shape[1]), min(len(source), len(target))
            target[:height, :columns] = source[:height, :columns]
        return copy


def over_black(colour: UInt8[np.ndarray, "*s"], alpha: UInt8[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    """Colours of pixels that are opaque as far as `alpha` says, of 255, before a black ground; rounded."""
    return ((colour.astype(np.uint32) * alpha + 127) // 255).astype(np.uint8)


def rows_of(frame: VideoFrame) -> list[UInt8[np.ndarray, "h b"]]:
    """The bytes of each plane, row by row, padding included."""
    return [np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]


def _views(conversion: Conversion, rgb: VideoFrame) -> list[np.ndarray]:
    """The converted pixels without a copy, as `Geometry.finish` takes them."""
    height, width = conversion.height, conversion.width
    planes = rows_of(rgb)
    if conversion.layout == "rgb0":
        return [planes[0].view(np.uint32)[:height, :width]]
    if conversion.layout == "rgb24":
        return [planes[0][:height, : width * 3].reshape(height, width, 3)]
    return in_order([plane[:height, :width] for plane in planes])


def in_order(planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Green, blue and red, as FFmpeg's `gbrp` has them, as red, green and blue."""
    green, blue, red = planes
    return [red, green, blue]
