"""Files that no setting of an encoder makes: the kinds of the named rows, with everything else about them drawn."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
from PIL import Image

from tests.oracle import rows_streams, rows_time
from tests.oracle.catalogue import CODECS
from tests.oracle.display import set_matrix, set_pixel_crop
from tests.oracle.drive import POLICIES, Case
from tests.oracle.making import STRIDE, ordinary, program
from tests.oracle.picture import TURNS, Colours, Picture
from tests.oracle.truth import Truth

Special = Callable[[random.Random, Path, str], Case]
_BY_RATE = {"num_frames": 3, "frame_rate": 25.0}


def _fields(rng: random.Random, folder: Path, name: str) -> Case:
    size = 32 * rng.randint(1, 3), 16 * rng.randint(2, 6)
    extension = rng.choice(["ts", "mkv", "mp4", "mov"])
    return rows_streams.fields(folder, name, extension, size, rng.choice([8, 24, 40]), rng.choice([4, 8, 12]))


def _joined(rng: random.Random, folder: Path, name: str) -> Case:
    extension, codec = rng.choice([("ts", "h264"), ("ts", "mpeg2"), ("mpg", "mpeg2"), ("ts", "hevc")])
    counts = [rng.choice([24, 40, 61]) for _ in range(2)]
    starts = [rng.choice([0, 25, 900]) for _ in range(2)]
    settings: dict[str, Any] = {"options": CODECS[codec].reorder[0]} if rng.random() < 0.5 else {}
    parts = [
        ordinary(folder, f"{name}-{part}", extension, codec, count, stamps=range(start, start + count), **settings)
        for part, (count, start) in enumerate(zip(counts, starts, strict=True))
    ]
    whole = folder / f"{name}.{extension}"
    whole.write_bytes(b"".join(part.path.read_bytes() for part in parts))
    case = parts[0]
    case.path = whole
    case.truth.numbers = [*range(counts[0]), *range(counts[1])]
    case.truth.times, case.truth.planned, case.truth.cuts = [], False, {counts[0]}
    # The demuxer may hold the seam against the last frames before it and the first group after it.
    case.truth.lost = set(range(counts[0] - 4, counts[0] + 1))
    return case


def _cluster(rng: random.Random, folder: Path, name: str) -> Case:
    codec = rng.choice(["ffv1", "h264", "mpeg4", "vp9", "hevc"])
    gop = rng.choice([1, 4, 8]) if codec != "hevc" else 8
    plans = [STRIDE, _BY_RATE, {"num_frames": 5, "frame_rate": 7.3, "clip_stride": 2}]
    return rows_time.cluster(folder, name, plans, codec, gop, 1, "1000")


def _interlaced(rng: random.Random, folder: Path, name: str) -> Case:
    size = 4 * rng.randint(8, 30), 2 * rng.randint(16, 60)
    kinds = [("mp4", "h264"), ("ts", "mpeg2"), ("mpg", "mpeg2"), ("mkv", "h264"), ("mxf", "mpeg2")]
    extension, codec = rng.choice(kinds)
    more = rng.choice(["interlaced=1", "tff=1", "bff=1"])
    options = {"preset": "veryfast", "qp": "0", "x264-params": f"scenecut=0:threads=1:{more}"}
    if codec == "mpeg2":
        options = CODECS["mpeg2"].options | {"flags": rng.choice(["+ildct+ilme", "+ildct"])}
    resolution = max(8, min(size) * rng.choice([2, 3]) // 3)
    case = ordinary(folder, name, extension, codec, 12, size=size, options=options, resolution=resolution)
    case.truth.chroma, case.truth.soft = (2, 6), 3
    case.policies = POLICIES
    return case


def _crop(rng: random.Random, folder: Path, name: str) -> Case:
    left, top, right, bottom = (2 * rng.randint(0, 6) for _ in range(4))
    size = 2 * rng.randint(16, 60), 2 * rng.randint(16, 60)
    if rng.random() < 0.5:
        picture = Picture(*size, crop=(left, top, right, bottom))
        params = f"scenecut=0:threads=1:crop-rect={left},{top},{right},{bottom}"
        options = {"preset": "veryfast", "qp": "0", "x264-params": params}
        extension = rng.choice(["mp4", "mkv", "ts", "flv", "mov"])
        case = ordinary(folder, name, extension, "h264", 8, picture=picture, options=options, plans=[STRIDE])
    else:
        left, top = max(left, 2), max(top, 2)
        picture = Picture(*size)
        stored = ordinary(folder, f"{name}-stored", "mkv", "ffv1", 8, picture=picture, plans=[STRIDE])
        case = stored
        case.path = folder / f"{name}.mkv"
        program("-i", folder / f"{name}-stored.mkv", "-c", "copy", "-aspect", "2", case.path)
        set_pixel_crop(case.path, left, top)
    case.policies = POLICIES
    return case


def _not_coded(rng: random.Random, folder: Path, name: str) -> Case:
    places = [place for place in range(1, 40) if place % 25]
    extension = rng.choice(["avi", "mp4", "mkv", "mov"])
    return rows_streams.not_coded(folder, name, extension, frozenset(rng.sample(places, rng.choice([1, 4, 9]))))


def _open_gop(rng: random.Random, folder: Path, name: str) -> Case:
    extension, codec, which = rng.choice(
        [
            *(("ts", "h264", 2), ("mkv", "h264", 2), ("ts", "mpeg2", 0), ("mpg", "mpeg2", 0), ("ts", "hevc", 1)),
            *(("avi", "mpeg2", 0), ("avi", "mpeg4", 0), ("mkv", "mpeg2", 0), ("mkv", "hevc", 1), ("vob", "mpeg2", 0)),
        ]
    )
    return rows_streams.open_gop(folder, name, extension, codec, which, gop=rng.choice([6, 9, 12, 15]))


def _tie(rng: random.Random, folder: Path, name: str) -> Case:
    if rng.random() < 0.4:
        return rows_time.tie_mp4(folder, name, rng.randint(3, 14), rng.choice(["mp4", "mov"]))
    at, stamps = 0, [0]
    for _ in range(30):
        at += rng.choice([0, 40, 40, 40, 40, 33, 120, 400])
        stamps.append(at)
    return rows_time.tie(folder, name, rng.choice(["ffv1", "mjpeg", "h264"]), [*stamps, at + 40])


def _edited(rng: random.Random, folder: Path, name: str) -> Case:
    start = round(rng.uniform(0.1, 4.5), 2)
    start += 0.01 if round(start * 100) % 4 == 0 else 0  # inside a frame
    extension, gop = rng.choice(["mp4", "mov"]), rng.choice([12, 50, 250])
    return rows_time.edited(folder, name, extension, rng.randint(0, 1), start, gop)


def _hole(rng: random.Random, folder: Path, name: str) -> Case:
    """A recording that was stopped for some seconds."""
    count, cut = 50, rng.randint(5, 45)
    gap = rng.choice([1500, 4000, 20000])
    stamps = [40 * n + (gap if n >= cut else 0) for n in range(count)]
    codec = rng.choice(["ffv1", "mjpeg"])
    case = ordinary(
        folder, name, "mkv", codec, count,
        colours=Colours(full=codec == "mjpeg"), gop=1, stamps=stamps, time_base=Fraction(1, 1000),
        plans=[STRIDE, _BY_RATE, {"num_frames": 5, "frame_rate": 7.3, "clip_stride": 2}],
    )  # fmt: skip
    case.truth.cuts, case.truth.planned = {cut}, False
    return case


def _truncated(rng: random.Random, folder: Path, name: str) -> Case:
    """The end of the file never arrived."""
    extension, codec = rng.choice(
        [
            ("mkv", "h264"),
            ("ts", "h264"),
            ("ts", "mpeg2"),
            ("avi", "mpeg4"),
            ("mp4", "h264"),
            ("flv", "h264"),
        ]
    )
    mux = {"movflags": rng.choice(["faststart", "frag_keyframe+empty_moov"])} if extension == "mp4" else {}
    case = ordinary(folder, name, extension, codec, 100, mux_options=mux)
    size = case.path.stat().st_size
    with av.open(str(case.path)) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
    cut = round(size * rng.uniform(0.4, 0.9))
    case.path.write_bytes(case.path.read_bytes()[:cut])
    whole = sum(place < cut for place in places) - 20  # packets of transport streams end behind those that follow
    case.truth.lost = case.truth.free = set(range(max(0, whole), 100))
    case.truth.planned = False
    case.whole = False
    return case


def _lost_frames(rng: random.Random, folder: Path, name: str) -> Case:
    """Some packets are not there; the group they belong to is not to be trusted."""
    extension, codec = rng.choice([("mkv", "mjpeg"), ("mov", "png"), ("mkv", "ffv1"), ("ts", "mpeg2"), ("mp4", "h264")])
    gone = set(rng.sample(range(13, 60), rng.choice([1, 3])))

    def edit(packets: list[av.Packet]) -> list[av.Packet]:
        return [packet for place, packet in enumerate(packets) if place not in gone]

    colours = Colours(kind="rgb" if codec == "png" else "yuv", full=codec == "mjpeg")
    case = ordinary(folder, name, extension, codec, 72, colours=colours, edit=edit, plans=[STRIDE, _BY_RATE])
    truth = case.truth
    truth.numbers = [number for number in range(72) if number not in gone]
    truth.times = [number / 25 for number in truth.numbers]
    truth.planned = False
    if not CODECS[codec].intra:
        groups = {number // 12 for number in gone}
        first = {group: min(number for number in gone if number // 12 == group) for group in groups}
        spoilt = {i for i, n in enumerate(truth.numbers) if n // 12 in groups and n > first[n // 12]}
        truth.lost = truth.free = spoilt
    return case


def _aslant(rng: random.Random, folder: Path, name: str) -> Case:
    """A display matrix a few degrees off a right angle, or scaled."""
    turn = rng.choice(TURNS)
    picture = Picture(2 * rng.randint(16, 60), 2 * rng.randint(16, 60), turn=turn)
    case = ordinary(folder, name, rng.choice(["mp4", "mov"]), "h264", 8, picture=picture, plans=[STRIDE])
    set_matrix(case.path, turn, scale=rng.choice([0.5, 2.0, 1.0]), degrees=rng.choice([0, 5, -17, 30]))
    case.policies = POLICIES
    return case


def _gif(rng: random.Random, folder: Path, name: str) -> Case:
    """Written by Pillow: a palette of the picture's own colours, only what changes stored, uneven durations."""
    picture = Picture(rng.randint(9, 100), rng.randint(9, 100), Colours(kind="rgb"))
    count = rng.choice([4, 12, 16])
    durations = [rng.choice([20, 40, 50, 100, 130]) for _ in range(count)]
    frames = []
    for number in range(count):
        table = np.rint(picture.expected(number)).astype(np.uint8)
        frames.append(Image.fromarray(table[picture.labels]).quantize(64, dither=Image.Dither.NONE))
    path = folder / f"{name}.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
    times = [sum(durations[:number]) / 1000 for number in range(count)]
    truth = Truth(picture, list(range(count)), times, (times[-1] + durations[-1] / 1000,) * 2, 1e-3, chroma=(0, 0))
    truth.tolerance = (1.0, 1.0, 1.0)
    return Case(name, path, truth, [], [max(8, min(picture.height, picture.width))])


def _program_made(rng: random.Random, folder: Path, name: str) -> Case:
    """Encoders that only the ffmpeg program has."""
    kinds: list[tuple[str, str, list[str], str]] = [
        ("ogv", "libtheora", ["-q:v", "10"], "yuv420p"),
        ("mkv", "libtheora", ["-q:v", "10"], "yuv444p"),
        ("mp4", "libaom-av1", ["-crf", "0", "-cpu-used", "8", "-row-mt", "0"], "gray"),
        ("mkv", "libaom-av1", ["-crf", "0", "-cpu-used", "8", "-row-mt", "0"], "yuv444p"),
        ("mp4", "libaom-av1", ["-crf", "0", "-cpu-used", "8", "-row-mt", "0"], "yuv420p10le"),
        ("mp4", "libopenh264", ["-b:v", "4M", "-slices", "1"], "yuv420p"),
        ("mkv", "libkvazaar", ["-kvazaar-params", "lossless=1,threads=0,owf=0"], "yuv420p"),
    ]
    extension, encoder, options, pix_fmt = rng.choice(kinds)
    width, height = 8 * rng.randint(4, 14), 8 * rng.randint(4, 14)
    if encoder in ("libopenh264", "libkvazaar"):
        width, height = max(width, 64), max(height, 64)
    gray = pix_fmt == "gray"
    depth = 10 if "10" in pix_fmt else 8
    picture = Picture(height, width, Colours(depth=depth, kind="gray" if gray else "yuv"))
    count, rate = rng.choice([12, 30]), rng.choice([24, 25, 30])
    raw = b"".join(_bytes(picture.frame(number, pix_fmt)) for number in range(count))
    path = folder / f"{name}.{extension}"
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo"),
        *("-pix_fmt", pix_fmt, "-color_range", "tv", "-video_size", f"{width}x{height}", "-framerate", str(rate)),
        *("-i", "pipe:0", "-c:v", encoder, *options, "-pix_fmt", pix_fmt, "-color_range", "tv", "-threads", "1"),
        *("-g", str(rng.choice([6, 12])), str(path)),
    ]
    subprocess.run(command, input=raw, check=True, capture_output=True)
    end = count / rate
    truth = Truth(picture, list(range(count)), [n / rate for n in range(count)], (end, end), 1e-3)
    truth.tolerance, truth.soft, truth.chroma = (60.0, 60.0, 12.0), 2, (2, 2)
    return Case(f"{encoder} {extension} {pix_fmt} {width}x{height} {rate}fps", path, truth, [], [min(width, height)])


def _bytes(frame: Any) -> bytes:
    sample = 2 if frame.format.components[0].bits > 8 else 1
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(np.ascontiguousarray(rows[: plane.height, : plane.width * sample]).tobytes())
    return b"".join(planes)


SPECIALS: dict[str, Special] = {
    "fields": _fields,
    "joined": _joined,
    "lost cluster": _cluster,
    "interlaced": _interlaced,
    "crop": _crop,
    "not coded": _not_coded,
    "open gop": _open_gop,
    "tie": _tie,
    "edited": _edited,
    "hole": _hole,
    "truncated": _truncated,
    "lost frames": _lost_frames,
    "aslant": _aslant,
    "gif": _gif,
    "program": _program_made,
}
"""By kind."""
