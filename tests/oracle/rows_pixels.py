"""What pixels are made of: columns, orientation, ranges, crops, fields. See `tests.oracle.rows`."""

from __future__ import annotations

from pathlib import Path

from tests.oracle.catalogue import CODECS
from tests.oracle.display import set_matrix, set_pixel_crop
from tests.oracle.drive import Case
from tests.oracle.making import STRIDE, ordinary, program, row
from tests.oracle.picture import TURNS, Colours, Picture

# Blocker 1: columns that a converter leaves unwritten.


@row("1 columns 100x100 at 64", "h264", "yuv420p", (100, 100), 64)
@row("1 columns 180x320 at 64", "h264", "yuv420p", (320, 180), 64)
@row("1 columns 178x218 at 128", "h264", "yuv420p", (218, 178), 128)
@row("1 columns 226x400 at 226", "h264", "yuv420p", (400, 226), 226)
@row("1 columns 404x720 at 64", "h264", "yuv420p", (720, 404), 64)
@row("1 columns 500x500 at 256", "h264", "yuv420p", (500, 500), 256)
@row("1 columns yuvj420p 66x66", "mjpeg", "yuvj420p", (66, 66), 66)
@row("1 columns yuv422p 67x35", "ffv1", "yuv422p", (35, 67), 35)
@row("1 columns yuva420p 68x90", "ffv1", "yuva420p", (90, 68), 50)
@row("1 columns 2x140", "vp9", "yuv420p", (140, 2), 16)
@row("1 columns 3x5", "mjpeg", "yuvj420p", (5, 3), 8)
def columns(folder: Path, name: str, codec: str, pix_fmt: str, size: tuple[int, int], resolution: int) -> Case:
    extension = "mp4" if codec == "h264" else "mkv"
    return ordinary(
        folder, name, extension, codec, 5, size=size, pix_fmt=pix_fmt, resolution=resolution, plans=[STRIDE]
    )


# a: the display matrix.


@row("a as it is", 0)
@row("a a quarter", 1)
@row("a a half", 2)
@row("a three quarters", 3)
@row("a left to right", 4)
@row("a upside down", 5)
@row("a diagonal", 6)
@row("a other diagonal", 7)
def matrix(folder: Path, name: str, which: int) -> Case:
    case = ordinary(folder, name, "mp4", "h264", 8, picture=Picture(48, 70, turn=TURNS[which]), plans=[STRIDE])
    set_matrix(case.path, TURNS[which])
    return case


# g: limited-range grey.


@row("g grey hevc", "mp4", "hevc", "gray")
@row("g grey ffv1", "mkv", "ffv1", "gray")
@row("g grey ffv1 10 bit", "mkv", "ffv1", "gray10le")
@row("g grey h264", "mp4", "h264", "gray")
def grey(folder: Path, name: str, extension: str, codec: str, pix_fmt: str) -> Case:
    colours = Colours(kind="gray", depth=10 if "10" in pix_fmt else 8)
    return ordinary(folder, name, extension, codec, 8, pix_fmt=pix_fmt, colours=colours, tagged=True, plans=[STRIDE])


# h: the decoders' own ways.


def _x264(more: str) -> dict[str, str]:
    return {"preset": "veryfast", "qp": "0", "x264-params": f"scenecut=0:threads=1:{more}"}


@row("h interlaced h264", "mp4", "h264", _x264("interlaced=1"), "yuv420p")
@row("h interlaced mpeg2", "ts", "mpeg2", CODECS["mpeg2"].options | {"flags": "+ildct+ilme", "top": "1"}, "yuv420p")
@row("h ten bit", "mp4", "h264", None, "yuv420p10le")
@row("h chroma place", "mp4", "h264", _x264("chromaloc=2"), "yuv420p")
@row("h fast h264", "mkv", "h264", None, "yuv420p")
@row("h fast mpeg2", "mpg", "mpeg2", None, "yuv420p")
def ways(folder: Path, name: str, extension: str, codec: str, options: dict[str, str] | None, pix_fmt: str) -> Case:
    depth = 10 if "10" in pix_fmt else 8
    case = ordinary(
        folder, name, extension, codec, 8,
        size=(64, 96), pix_fmt=pix_fmt, colours=Colours(depth=depth), options=options, plans=[STRIDE], resolution=40,
    )  # fmt: skip
    if "interlaced" in name:
        case.truth.chroma, case.truth.soft = (2, 6), 3
    return case


@row("h crop h264")
def crop(folder: Path, name: str) -> Case:
    picture = Picture(48, 72, crop=(8, 4, 0, 2))
    return ordinary(folder, name, "mp4", "h264", 8, picture=picture, options=_x264("crop-rect=8,4,0,2"), plans=[STRIDE])


@row("h crop Matroska")
def pixel_crop(folder: Path, name: str) -> Case:
    picture = Picture(48, 72)
    case = ordinary(folder, name, "mkv", "ffv1", 8, picture=picture, plans=[STRIDE])
    stored = case.path.rename(folder / f"{name}-stored.mkv")
    program("-i", stored, "-c", "copy", "-aspect", "2", case.path)
    set_pixel_crop(case.path, 8, 6)
    return case
