"""The known faults, a maker each: small files of the kinds that vtok once got wrong, with what is right about them."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from tests.oracle import bitstreams
from tests.oracle.catalogue import CODECS, Codec
from tests.oracle.damage import BadPacket, HeadlessPacket, lose_cluster
from tests.oracle.display import set_matrix, set_pixel_crop
from tests.oracle.draw import chroma_margin, tolerance
from tests.oracle.drive import POLICIES, Case
from tests.oracle.encode import Edit, Encoding, changed, encode
from tests.oracle.picture import TURNS, Colours, Picture
from tests.oracle.truth import Truth

_STRIDE = {"num_frames": 4}
_WRAP = (1 << 33) / 90000

Maker = Callable[[Path], Case]
ROWS: dict[str, Maker] = {}
"""By name; the name begins with the row of the list of faults."""


def row(name: str, *args: Any) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Registers a maker under a name, with its arguments."""

    def register(maker: Callable[..., Case]) -> Callable[..., Case]:
        assert name not in ROWS
        ROWS[name] = lambda folder: maker(folder, name.replace(" ", "-").replace("/", "-"), *args)
        return maker

    return register


def _case(
    folder: Path,
    name: str,
    extension: str,
    codec: str | Codec,
    count: int = 24,
    *,
    size: tuple[int, int] = (48, 64),
    pix_fmt: str = "yuv420p",
    colours: Colours | None = None,
    options: dict[str, str] | None = None,
    plans: Sequence[dict[str, Any]] = (_STRIDE, {"num_frames": 4, "frame_rate": 25.0}),
    resolution: int | None = None,
    stamps: Sequence[int] | None = None,
    edit: Edit | None = None,
    picture: Picture | None = None,
    by_rate: bool = True,
    **settings: Any,
) -> Case:
    """An ordinary file of frames 0 to `count` - 1 at 25 frames a second, or at `stamps` of `time_base`."""
    kind = CODECS[codec] if isinstance(codec, str) else codec
    picture = picture or Picture(*size, colours or Colours(full=pix_fmt.startswith("yuvj")))
    encoding = Encoding(kind.encoder, pix_fmt, dict(options if options is not None else kind.options), **settings)
    numbers = list(range(count))
    stamps = list(stamps) if stamps is not None else numbers
    times = [float((stamp - stamps[0]) * encoding.time_base) for stamp in stamps]
    path = folder / f"{name}.{extension}"
    encode(path, picture, numbers, stamps, encoding, edit)
    end = times[-1] + (times[-1] - times[-2])
    truth = Truth(
        picture,
        numbers,
        times if by_rate else [],
        (end, end),
        1e-3,
        tolerance=tolerance(kind, pix_fmt),
        soft=0 if kind.exact else 2,
        chroma=chroma_margin(pix_fmt),
    )
    # Which frames there are does not depend on how they are resized.
    policies = POLICIES if name[0] in "1agh" else POLICIES[:1]
    resolutions = [resolution or min(picture.height, picture.width)]
    return Case(name, path, truth, [dict(plan) for plan in plans], resolutions, policies=policies)


def _program(*arguments: str | Path) -> None:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


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
    return _case(folder, name, extension, codec, 5, size=size, pix_fmt=pix_fmt, resolution=resolution, plans=[_STRIDE])


# Blocker 2: a clock that runs over.


@row("2 wrap after 42 s", 42.0, "mpeg2")
@row("2 wrap after 54 s", 54.0, "h264")
@row("2 wrap after 6 s", 6.0, "h264")
@row("2 wrap after 59.9 s", 59.9, "mpeg2")
def wrap(folder: Path, name: str, before: float, codec: str) -> Case:
    first = round((_WRAP - before) * 25)
    plans = [{"num_frames": 4, "frame_rate": 25.0}, {"num_frames": 8, "frame_rate": 10.0}]
    return _case(folder, name, "ts", codec, 300, size=(32, 32), stamps=range(first, first + 300), plans=plans)


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
    case = _case(folder, name, "mp4", "h264", 8, picture=Picture(48, 70, turn=TURNS[which]), plans=[_STRIDE])
    set_matrix(case.path, TURNS[which])
    return case


# b: the last clip, reached by a jump.


@row("b jump ts", "ts", "h264", {})
@row("b jump m2ts", "m2ts", "h264", {"mpegts_m2ts_mode": "1"})
@row("b jump mpg", "mpg", "mpeg2", {})
@row("b jump vob", "vob", "mpeg2", {})
@row("b jump ts mpeg2", "ts", "mpeg2", {})
@row("b jump ts hevc", "ts", "hevc", {})
def jump(folder: Path, name: str, extension: str, codec: str, mux: dict[str, str]) -> Case:
    muxer = {"ts": "mpegts", "m2ts": "mpegts", "mpg": "mpeg", "vob": "vob"}[extension]
    options = CODECS[codec].reorder[0]
    few = {"max_clips_per_video": 3, "pick": "spread"}
    plans = [{"num_frames": 4, **few}, {"num_frames": 4, "frame_rate": 12.5, **few}]
    return _case(folder, name, extension, codec, 400, options=options, plans=plans, muxer=muxer, mux_options=mux)


# c: one field a packet.


@row("c fields ts", "ts")
@row("c fields mkv", "mkv")
@row("c fields mp4", "mp4")
def fields(folder: Path, name: str, extension: str) -> Case:
    picture, count, gop = Picture(64, 64), 24, 8
    path, raw = folder / f"{name}.{extension}", folder / f"{name}.h264"
    packets = []
    for number in range(count):
        for bottom in (False, True):
            data = bitstreams.avc_field(picture, number, bottom, number % gop)
            key = number % gop == 0 and not bottom
            packets.append((bitstreams.avc_headers(64, 64, 25) + data if key else data, key))
    raw.write_bytes(b"".join(data for data, _ in packets[:2]))
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream: Any = container.add_stream_from_template(source.streams.video[0], opaque=True)
        for place, (data, key) in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = place
            packet.duration, packet.is_keyframe = 1, key
            container.mux(packet)
    truth = Truth(picture, list(range(count)), [n / 25 for n in range(count)], (count / 25, count / 25), 1e-3)
    truth.chroma, truth.tolerance = (2, 6), (3.0, 1.0, 3.0)
    plans = [_STRIDE, {"num_frames": 4, "frame_rate": 25.0}]
    return Case(name, path, truth, plans, [64], policies=POLICIES[:1])


# d: one damaged packet.


@row("d packet mp4", "mp4", "h264-lossy", "yuv420p", HeadlessPacket)
@row("d packet avi", "avi", "mpeg4", "yuv420p", HeadlessPacket)
@row("d packet avi h264", "avi", "h264", "yuv420p", HeadlessPacket)
@row("d packet mov mjpeg", "mov", "mjpeg", "yuvj420p", HeadlessPacket)
@row("d packet mkv", "mkv", "h264", "yuv420p", HeadlessPacket)
@row("d packet ts", "ts", "mpeg2", "yuv420p", BadPacket)
@row("d half a packet mp4", "mp4", "h264-lossy", "yuv420p", BadPacket)
@row("d half a packet avi", "avi", "mpeg4", "yuv420p", BadPacket)
def packet(folder: Path, name: str, extension: str, codec: str, pix_fmt: str, kind: type[BadPacket]) -> Case:
    truth = Truth(Picture(48, 64), list(range(100)), [n / 25 for n in range(100)])
    harm = kind(random.Random(0), truth, CODECS[codec], extension, share=0.2)
    case = _case(folder, name, extension, codec, 100, pix_fmt=pix_fmt, edit=harm.edit)
    harm.finish(case.path)
    case.truth.free, case.truth.lost = truth.free, truth.lost
    return case


@row("d joined ts")
def joined(folder: Path, name: str) -> Case:
    parts = [
        _case(folder, f"{name}-{start}", "ts", "h264", 40, stamps=range(start, start + 40)).path for start in (0, 7)
    ]
    case = _case(folder, name, "ts", "h264", 40)
    case.path.write_bytes(b"".join(part.read_bytes() for part in parts))
    case.truth.numbers = [*range(40), *range(40)]
    case.truth.times = []  # where the second one begins in time, nobody knows
    case.truth.planned, case.truth.cuts = False, {40}
    case.truth.lost = {38, 39}  # a demuxer holds the break of the counter against what it was in the middle of
    return case


# e: a lost cluster.


@row("e cluster by stride", [_STRIDE])
@row("e cluster by rate", [{"num_frames": 4, "frame_rate": 25.0}])
@row("e cluster by another rate", [{"num_frames": 6, "frame_rate": 7.3, "clip_stride": 1}])
def cluster(folder: Path, name: str, plans: list[dict[str, Any]]) -> Case:
    case = _case(folder, name, "mkv", "ffv1", 60, gop=1, plans=plans, mux_options={"cluster_time_limit": "640"})
    gone = lose_cluster(case.path, 1)
    truth = case.truth
    truth.numbers = [number for number in range(60) if not gone[0] <= number / 25 * 1000 < gone[1]]
    truth.times = [number / 25 for number in truth.numbers]
    truth.cuts = {next(i for i, number in enumerate(truth.numbers) if number != i)}
    truth.planned = False
    return case


# g: limited-range grey.


@row("g grey hevc", "mp4", "hevc", "gray")
@row("g grey ffv1", "mkv", "ffv1", "gray")
@row("g grey ffv1 10 bit", "mkv", "ffv1", "gray10le")
@row("g grey h264", "mp4", "h264", "gray")
def grey(folder: Path, name: str, extension: str, codec: str, pix_fmt: str) -> Case:
    colours = Colours(kind="gray", depth=10 if "10" in pix_fmt else 8)
    return _case(folder, name, extension, codec, 8, pix_fmt=pix_fmt, colours=colours, tagged=True, plans=[_STRIDE])


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
    case = _case(
        folder, name, extension, codec, 8,
        size=(64, 96), pix_fmt=pix_fmt, colours=Colours(depth=depth), options=options, plans=[_STRIDE], resolution=40,
    )  # fmt: skip
    if "interlaced" in name:
        case.truth.chroma, case.truth.soft = (2, 6), 3
    return case


@row("h crop h264")
def crop(folder: Path, name: str) -> Case:
    picture = Picture(48, 72, crop=(8, 4, 0, 2))
    return _case(folder, name, "mp4", "h264", 8, picture=picture, options=_x264("crop-rect=8,4,0,2"), plans=[_STRIDE])


@row("h crop Matroska")
def pixel_crop(folder: Path, name: str) -> Case:
    picture = Picture(48, 72, crop=(8, 6, 0, 0))
    case = _case(folder, name, "mkv", "ffv1", 8, picture=picture, plans=[_STRIDE])
    stored = case.path.rename(folder / f"{name}-stored.mkv")
    _program("-i", stored, "-c", "copy", "-aspect", "2", case.path)
    set_pixel_crop(case.path, 8, 6)
    return case


# i, j: H.264 and MPEG-2 where the container has no room for their order.


@row("i h264 avi", "avi", "h264", 0)
@row("i h264 avi reordered", "avi", "h264", 1)
@row("i h264 asf", "asf", "h264", 0)
@row("j h264 asf reordered", "asf", "h264", 1)
@row("j mpeg2 asf", "asf", "mpeg2", 0)
@row("j mpeg2 asf reordered", "asf", "mpeg2", 1)
@row("j mpeg2 mpg", "mpg", "mpeg2", 1)
@row("j mpeg1 mpg", "mpg", "mpeg1", 1)
@row("j tiny mpeg2 mpg", "mpg", "mpeg2", 0, 4)
@row("j tiny mpeg2 mpg reordered", "mpg", "mpeg2", 1, 5)
@row("j tinier mpeg2 mpg", "mpg", "mpeg2", 0, 2, (16, 16))
@row("j tiny mpeg1 mpg", "mpg", "mpeg1", 1, 5, (16, 16))
@row("j tiny mpeg2 vob", "vob", "mpeg2", 1, 8, (16, 32))
def orders(
    folder: Path,
    name: str,
    extension: str,
    codec: str,
    reordered: int,
    count: int = 24,
    size: tuple[int, int] = (48, 64),
) -> Case:
    options = CODECS[codec].reorder[0] if reordered else None
    plans = [{"num_frames": 2}, {"num_frames": 2, "frame_rate": 25.0}]
    return _case(folder, name, extension, codec, count, options=options, plans=plans, size=size)


# m: pictures that are not coded, open groups of pictures.


@row("m not coded avi", "avi")
@row("m not coded mp4", "mp4")
def not_coded(folder: Path, name: str, extension: str) -> Case:
    repeats = {5, 6, 13, 30}
    numbers: list[int] = []
    for place in range(40):
        numbers.append(numbers[-1] if place in repeats else place)

    def edit(packets: list[av.Packet]) -> list[av.Packet]:
        return [changed(p, bitstreams.not_coded(i, 25)) if i in repeats else p for i, p in enumerate(packets)]

    return _numbered(folder, name, extension, CODECS["mpeg4"], numbers, edit, gop=40)


@row("m packed avi")
def packed(folder: Path, name: str) -> Case:
    def edit(packets: list[av.Packet]) -> list[av.Packet]:
        stored = [bytes(p) for p in packets]
        stored[0] = _as_divx(stored[0])
        chunks = [stored[0]]
        for place in range(1, len(packets) - 1, 2):  # P and the B shown before it, then a placeholder
            chunks += [stored[place] + stored[place + 1], bitstreams.not_coded(2 if place % 24 == 23 else 1, 25)]
        out = []
        for place, data in enumerate(chunks):
            new = changed(packets[place], data)
            new.pts = new.dts = place
            new.is_keyframe = place == 0
            out.append(new)
        return out

    codec = CODECS["mpeg4"]._replace(options=CODECS["mpeg4"].options | {"bf": "1", "b_strategy": "0"})
    return _numbered(folder, name, "avi", codec, list(range(25)), edit, gop=100)


def _as_divx(data: bytes) -> bytes:
    start = data.index(b"\0\0\1\xb2Lavc")
    end = data.index(b"\0\0\1", start + 4)
    return data[:start] + b"\0\0\1\xb2DivX503b1393p" + data[end:]


def _numbered(folder: Path, name: str, extension: str, codec: Codec, numbers: list[int], edit: Edit, gop: int) -> Case:
    """A file whose frames show `numbers`."""
    picture, path = Picture(48, 64), folder / f"{name}.{extension}"
    encoding = Encoding(codec.encoder, "yuv420p", dict(codec.options), gop=gop)
    encode(path, picture, numbers, list(range(len(numbers))), encoding, edit)
    end = len(numbers) / 25
    truth = Truth(picture, numbers, [n / 25 for n in range(len(numbers))], (end, end), 1e-3)
    truth.tolerance, truth.soft = tolerance(codec, "yuv420p"), 2
    return Case(name, path, truth, [_STRIDE, {"num_frames": 4, "frame_rate": 25.0}], [48], policies=POLICIES[:1])


@row("m open gop ts", "ts", "h264", 2)
@row("m open gop mkv", "mkv", "h264", 2)
@row("m open gop mpeg2 ts", "ts", "mpeg2", 0)
@row("m open gop mpg", "mpg", "mpeg2", 0)
@row("m open gop hevc ts", "ts", "hevc", 1)
@row("m open gop avi", "avi", "mpeg2", 0)
@row("m open gop mpeg4 avi", "avi", "mpeg4", 0)
def open_gop(folder: Path, name: str, extension: str, codec: str, which: int) -> Case:
    begun: list[int] = []

    def edit(packets: list[av.Packet]) -> list[av.Packet]:
        second = [i for i, p in enumerate(packets) if p.is_keyframe][1]
        begun.extend(sorted(int(p.pts or 0) for p in packets[second:]))
        begun.append(int(packets[second].pts or 0))
        if extension == "avi":  # which fills the time before the first packet with empty ones
            for packet in packets[second + 1 :]:
                packet.pts, packet.dts = int(packet.pts or 0) - begun[0], int(packet.dts or 0) - second
            packets[second].pts, packets[second].dts = begun[-1] - begun[0], int(packets[second].dts or 0) - second
        return packets[second:]

    case = _case(folder, name, extension, codec, 48, options=CODECS[codec].reorder[which], edit=edit)
    key = begun.pop()
    case.truth.numbers = begun
    case.truth.times = [(number - begun[0]) / 25 for number in begun]
    case.truth.ends = (len(begun) / 25,) * 2
    case.truth.lost = case.truth.free = {i for i, number in enumerate(begun) if number < key}
    case.truth.planned = False
    return case


# p: two frames at one time.

_TIED = [0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 360, *range(760, 1200, 40)]


@row("p tie mkv")
def tie(folder: Path, name: str) -> Case:
    return _case(
        folder, name, "mkv", "ffv1", len(_TIED), stamps=_TIED, time_base=Fraction(1, 1000),
        plans=[{"num_frames": 8, "frame_rate": 12.5}, _STRIDE],
    )  # fmt: skip


@row("p tie mp4")
def tie_mp4(folder: Path, name: str) -> Case:
    odd = [*range(0, 400, 40), 361, *range(761, 1201, 40)]
    case = _case(
        folder, name, "mp4", "mpeg4", len(odd), stamps=odd, time_base=Fraction(1, 1000),
        plans=[{"num_frames": 8, "frame_rate": 12.5}, _STRIDE], mux_options={"video_track_timescale": "1000"},
    )  # fmt: skip
    data = bytearray(case.path.read_bytes())
    at = data.index(struct.pack(">II", 1, 1), data.index(b"stts"))  # one interval of one unit
    data[at : at + 8] = struct.pack(">II", 1, 0)
    case.path.write_bytes(data)
    tied = [stamp - (stamp > 360) for stamp in odd]
    case.truth.times = [stamp / 1000 for stamp in tied]
    end = case.truth.times[-1] + 0.04
    case.truth.ends = (end, end)
    return case


# q: elementary streams under a name of their own.


@row("q mpeg2 under mpg", "mpeg2", "mpeg2video", 0)
@row("q mpeg2 under mpg reordered", "mpeg2", "mpeg2video", 1)
@row("q mpeg1 under mpg", "mpeg1", "mpeg1video", 0)
@row("q mpeg1 under mpg reordered", "mpeg1", "mpeg1video", 1)
def elementary(folder: Path, name: str, codec: str, muxer: str, reordered: int) -> Case:
    options = CODECS[codec].reorder[0] if reordered else None
    return _case(folder, name, "mpg", codec, 28, options=options, muxer=muxer, plans=[_STRIDE], by_rate=False)


@row("q h264", "h264", "h264")
@row("q hevc", "hevc", "hevc")
@row("q mpeg4", "m4v", "mpeg4")
def other_elementary(folder: Path, name: str, extension: str, codec: str) -> Case:
    options = CODECS[codec].reorder[0]
    return _case(folder, name, extension, codec, 28, options=options, plans=[_STRIDE], by_rate=False)


# r: headers that do not say how long a video is.


@row("r edit inside a frame", "mp4", 0)
@row("r edit inside a frame reordered", "mp4", 1)
@row("r edit inside a frame mov", "mov", 1)
def edited(folder: Path, name: str, extension: str, reordered: int) -> Case:
    options = CODECS["h264"].reorder[0] if reordered else None
    source = _case(folder, f"{name}-source", extension, "h264", 150, gop=250, options=options)
    path = folder / f"{name}.{extension}"
    _program("-ss", "0.61", "-i", source.path, "-c", "copy", path)
    numbers = list(range(16, 150))
    truth = source.truth
    truth.numbers, truth.times = numbers, [(number - 16) / 25 for number in numbers]
    truth.ends = (len(numbers) / 25,) * 2
    plans = [
        {"num_frames": 4, "frame_rate": 25.0},
        {"num_frames": 5, "frame_rate": 10.0, "windows": "centre"},
        {"num_frames": 4, "frame_rate": 25.0, "max_clips_per_video": 3, "pick": "spread"},
        _STRIDE,
    ]
    return Case(name, path, truth, plans, [48], policies=POLICIES[:1])


@row("r short header")
def short_header(folder: Path, name: str) -> Case:
    case = _case(folder, name, "mp4", "h264", 155, plans=[{"num_frames": 8, "frame_rate": 10.0}, _STRIDE])
    data = bytearray(case.path.read_bytes())
    at = data.index(b"mdhd")
    assert data[at + 4] == 0
    scale = struct.unpack_from(">I", data, at + 16)[0]
    struct.pack_into(">I", data, at + 20, round(1.2 * scale))
    case.path.write_bytes(data)
    return case


# s: the last frame's duration.


@row("s last frame flv", "flv", "flv1", 6)
@row("s last frame wmv", "wmv", "wmv2", 6)
@row("s last frame ts", "ts", "h264", 6)
@row("s last frame asf", "asf", "mpeg4", 42)
def last_frame(folder: Path, name: str, extension: str, codec: str, count: int) -> Case:
    plans = [{"num_frames": 1, "frame_rate": 25.0}, {"num_frames": count, "frame_rate": 25.0}]
    return _case(folder, name, extension, codec, count, plans=plans)
