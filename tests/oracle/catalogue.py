"""Which codecs and containers are drawn from, and what is known about each."""

from __future__ import annotations

from typing import NamedTuple

import av

_X264 = {"preset": "ultrafast", "x264-params": "scenecut=0:threads=1"}
_SCALE = {"qmin": "2", "qmax": "2", "b": "100M"}
_COARSER = {"qmin": "4", "qmax": "4", "b": "100M"}  # below, these clip large coefficients


class Codec(NamedTuple):
    """A way to encode.

    Attributes:
        encoder, formats, options: for PyAV.
        exact: whether it loses nothing.
        reorder: options that make frames be stored in another order than they are shown in.
        step: width and height are multiples of it (of 4:2:0 and 4:2:2; others may be odd).
        least: smallest side, pixels.
        tags: whether matrix and range are in its own stream.
        regular: whether only constant frame rates can be coded.
        intra: whether every frame is a key frame.
        tolerance: levels by which a pixel, and the mean of a cell, may be off.
    """

    encoder: str
    formats: tuple[str, ...]
    options: dict[str, str]
    exact: bool = False
    reorder: tuple[dict[str, str], ...] = ()
    step: int = 1
    least: int = 2
    tags: bool = False
    regular: bool = False
    intra: bool = False
    tolerance: tuple[float, float] = (80.0, 16.0)


_B264 = (
    {"preset": "veryfast", "x264-params": "scenecut=0:threads=1:bframes=2:b-adapt=0"},
    {"preset": "veryfast", "x264-params": "scenecut=0:threads=1:bframes=3:b-adapt=0:b-pyramid=normal:ref=4"},
    {"preset": "veryfast", "x264-params": "scenecut=0:threads=1:bframes=2:b-adapt=0:open-gop=1"},
    {"preset": "veryfast", "x264-params": "scenecut=0:threads=1:bframes=2:b-adapt=0:slices=3"},
)
_X265 = "log-level=none:pools=none:frame-threads=1:scenecut=0"
_B265 = (
    {"preset": "ultrafast", "x265-params": f"{_X265}:lossless=1:bframes=3:b-adapt=0:open-gop=0"},
    {"preset": "ultrafast", "x265-params": f"{_X265}:lossless=1:bframes=2:b-adapt=0:open-gop=1"},
)

CODECS: dict[str, Codec] = {
    "h264": Codec(
        "libx264",
        ("yuv420p", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray", "gray10le"),
        _X264 | {"qp": "0"},
        exact=True,
        reorder=tuple(options | {"qp": "0"} for options in _B264),
        step=2,
        tags=True,
    ),
    "h264-lossy": Codec(
        "libx264",
        ("yuv420p", "yuv420p", "yuv444p"),
        _X264 | {"crf": "6"},
        reorder=tuple(options | {"crf": "6"} for options in _B264),
        step=2,
        tags=True,
    ),
    "h264-rgb": Codec("libx264rgb", ("rgb24", "bgr24"), _X264 | {"qp": "0"}, exact=True, tags=True),
    "hevc": Codec(
        "libx265",
        ("yuv420p", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "gray", "gray10le"),
        {"preset": "ultrafast", "x265-params": f"{_X265}:lossless=1:bframes=0"},
        exact=True,
        reorder=_B265,
        step=2,
        least=32,
        tags=True,
    ),
    "vp8": Codec(
        "libvpx", ("yuv420p",), {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "20M", "qmax": "8"}
    ),
    "vp9": Codec(
        "libvpx-vp9",
        ("yuv420p", "yuv420p", "yuv422p", "yuv440p", "yuv444p", "yuv420p10le", "yuv444p12le", "gbrp"),
        {"deadline": "realtime", "cpu-used": "8", "lossless": "1"},
        exact=True,
        reorder=({"deadline": "good", "cpu-used": "5", "lossless": "1", "lag-in-frames": "12", "auto-alt-ref": "1"},),
        tags=True,
    ),
    "av1": Codec(
        "libsvtav1",
        ("yuv420p",),
        {"preset": "12", "svtav1-params": "lp=1:pred-struct=1:scd=0:lossless=1"},
        exact=True,
        reorder=({"preset": "10", "svtav1-params": "lp=1:scd=0:lossless=1"},),
        step=2,
        least=64,
        tags=True,
    ),
    "mpeg1": Codec("mpeg1video", ("yuv420p",), _SCALE, reorder=(_SCALE | {"bf": "2"},), least=16, regular=True),
    "mpeg2": Codec(
        "mpeg2video", ("yuv420p", "yuv420p", "yuv422p"), _SCALE, reorder=(_SCALE | {"bf": "2"},), least=16, regular=True
    ),
    "mpeg4": Codec("mpeg4", ("yuv420p",), _SCALE, reorder=(_SCALE | {"bf": "2"}, _SCALE | {"bf": "1"})),
    "msmpeg4v2": Codec("msmpeg4v2", ("yuv420p",), _COARSER, tolerance=(80.0, 16.0)),
    "msmpeg4v3": Codec("msmpeg4", ("yuv420p",), _COARSER, tolerance=(80.0, 16.0)),
    "wmv1": Codec("wmv1", ("yuv420p",), _SCALE, step=2),
    "wmv2": Codec("wmv2", ("yuv420p",), _SCALE, step=2),
    "flv1": Codec("flv", ("yuv420p",), _SCALE, least=4),
    "h263+": Codec("h263p", ("yuv420p",), _COARSER, tolerance=(80.0, 16.0), step=4, least=16),
    "rv20": Codec("rv20", ("yuv420p",), _COARSER, tolerance=(80.0, 16.0), step=4, least=16),
    "mjpeg": Codec(
        "mjpeg",
        ("yuvj420p", "yuvj420p", "yuvj422p", "yuvj444p"),
        {"qmin": "1", "qmax": "1", "b": "100M"},
        intra=True,
    ),
    "ffv1": Codec(
        "ffv1",
        (
            *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuv420p10le", "yuv422p10le"),
            *("yuv444p16le", "gray", "gray10le", "yuva420p", "gbrp", "gbrp10le", "bgr0", "bgra", "yuv420p12le"),
        ),
        {"level": "3"},
        exact=True,
    ),
    "huffyuv": Codec("huffyuv", ("yuv422p", "rgb24", "bgra"), {}, exact=True, intra=True),
    "ffvhuff": Codec("ffvhuff", ("yuv420p", "yuv422p", "yuv444p", "gbrp", "yuv420p10le"), {}, exact=True, intra=True),
    "utvideo": Codec("utvideo", ("yuv420p", "yuv422p", "yuv444p", "gbrp", "gbrap"), {}, exact=True, intra=True),
    "magicyuv": Codec("magicyuv", ("yuv420p", "yuv422p", "yuv444p", "gbrp"), {}, exact=True, intra=True),
    "png": Codec("png", ("rgb24", "rgba", "gray"), {}, exact=True, intra=True),
    "qtrle": Codec("qtrle", ("rgb24", "argb"), {}, exact=True),
    "rawvideo": Codec(
        "rawvideo", ("yuv420p", "yuyv422", "uyvy422", "bgr24", "bgra", "rgb24"), {}, exact=True, intra=True
    ),
    "prores": Codec(
        "prores_ks",
        ("yuv422p10le", "yuv444p10le"),
        {"profile": "4", "qscale": "1"},
        intra=True,
        tags=True,
        step=2,
        tolerance=(16.0, 3.0),
    ),
    "jpeg2000": Codec(
        "jpeg2000", ("yuv420p", "yuv444p", "rgb24", "gray"), {"pred": "1"}, exact=True, intra=True, least=32
    ),
}

TICK = {"mkv": 1e-3, "webm": 1e-3, "flv": 1e-3, "wmv": 1e-3, "asf": 1e-3, "ts": 1 / 90000, "m2ts": 1 / 90000}
TICK |= {"mts": 1 / 90000, "mpg": 1 / 90000, "vob": 1 / 90000, "gif": 0.01}
"""Seconds to which containers round."""

_PROGRAM = ("h264", "h264", "h264-lossy", "hevc", "mpeg2", "mpeg1", "mpeg4")
CONTAINERS: dict[str, tuple[str, ...]] = {
    "mp4": ("h264", "h264", "h264-lossy", "hevc", "vp9", "av1", "mpeg4", "mpeg2", "mpeg1", "mjpeg"),
    "mov": (*("h264", "h264-lossy", "hevc", "prores", "mjpeg", "png", "qtrle", "rawvideo", "mpeg4", "jpeg2000"),),
    "mkv": (
        *("h264", "h264", "h264-lossy", "h264-rgb", "hevc", "vp8", "vp9", "av1", "mpeg1", "mpeg2", "mpeg4", "mjpeg"),
        *("ffv1", "ffv1", "prores", "msmpeg4v3"),
    ),
    "webm": ("vp8", "vp9", "vp9", "av1"),
    "avi": (
        *(
            "mpeg4",
            "mpeg4",
            "msmpeg4v2",
            "msmpeg4v3",
            "mjpeg",
            "h264",
            "huffyuv",
            "ffvhuff",
            "utvideo",
            "ffv1",
            "rawvideo",
        ),
        *("png", "magicyuv", "mpeg2", "mpeg1", "wmv2"),
    ),
    "ts": _PROGRAM,
    "m2ts": _PROGRAM,
    "mpg": ("mpeg1", "mpeg2", "mpeg2"),
    "vob": ("mpeg2",),
    "flv": ("flv1", "h264", "h264-lossy"),
    "wmv": ("wmv1", "wmv2", "msmpeg4v3"),
    "asf": ("wmv2", "h264", "mpeg2", "mpeg4", "mjpeg", "msmpeg4v2"),
    "nut": ("ffv1", "h264", "mpeg4", "rawvideo", "utvideo", "vp8", "mpeg2"),
    "mxf": ("mpeg2", "prores", "jpeg2000", "ffv1", "h264"),
    "3gp": ("h264", "mpeg4"),
    "rm": ("rv20",),
    "ogv": ("vp8",),
    "h264": ("h264",),
    "hevc": ("hevc",),
    "m1v": ("mpeg1",),
    "m2v": ("mpeg2",),
    "m4v": ("mpeg4",),
    "ivf": ("vp8", "vp9", "av1"),
    "obu": ("av1",),
}
"""By extension."""

MUXERS = {"m1v": "mpeg1video", "m2v": "mpeg2video", "m4v": "m4v", "ts": "mpegts", "m2ts": "mpegts", "wmv": "asf"}
MUXERS |= {"mpg": "mpeg", "vob": "vob", "ogv": "ogg", "mts": "mpegts"}
RAW = {"h264", "hevc", "m1v", "m2v", "m4v", "obu"}
"""Elementary streams: frames without time stamps."""
UNSTAMPED = {*RAW, "avi"}
"""Frames are evenly spaced, whatever the encoder was told."""
FIXED_RATE = {*UNSTAMPED, "mxf", "mpg", "vob", "ogv", "rm", "ivf"}
"""Only drawn with a constant frame rate."""

_CHROMA = {"yuv420": (2, 2), "yuvj42": (2, 2), "yuva42": (2, 2), "yuv422": (2, 0), "yuv440": (4, 4), "yuv444": (0, 0)}
_CHROMA |= {"yuv411": (5, 0), "yuv410": (6, 6), "yuvj44": (0, 0), "yuyv42": (2, 0), "uyvy42": (2, 0), "nv12": (2, 2)}


def chroma_margin(pix_fmt: str) -> tuple[int, int]:
    """Pixels across and down that mix around a coloured edge."""
    return _CHROMA.get(pix_fmt[:6], (0, 0))


def tolerance(codec: Codec, pix_fmt: str) -> tuple[float, float, float]:
    """Levels by which coloured pixels, grey pixels and the mean of a cell may be off.

    Where chroma has fewer samples, libswscale truncates: flat colours come out up to 3 levels darker than the formula
    says (5 with more than 8 bits), greys up to 1 (2).
    """
    lossy, mean = codec.tolerance
    if not codec.exact:
        return lossy, lossy, mean
    if not any(chroma_margin(pix_fmt)):
        return 1.0, 1.0, 1.0
    return (3.0, 1.0, 3.0) if av.VideoFormat(pix_fmt, 16, 16).components[0].bits == 8 else (5.0, 3.0, 5.0)
