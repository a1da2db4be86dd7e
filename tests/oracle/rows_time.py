"""When frames are shown: clocks, holes, ties, headers, last frames. See `tests.oracle.rows`."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.oracle.catalogue import CODECS
from tests.oracle.damage import lose_cluster
from tests.oracle.drive import POLICIES, Case
from tests.oracle.making import STRIDE, ordinary, program, row

_WRAP = (1 << 33) / 90000

# Blocker 2: a clock that runs over.


@row("2 wrap after 42 s", 42.0, "mpeg2")
@row("2 wrap after 54 s", 54.0, "h264")
@row("2 wrap after 6 s", 6.0, "h264")
@row("2 wrap after 59.9 s", 59.9, "mpeg2")
def wrap(folder: Path, name: str, before: float, codec: str) -> Case:
    first = round((_WRAP - before) * 25)
    plans = [{"num_frames": 4, "frame_rate": 25.0}, {"num_frames": 8, "frame_rate": 10.0}]
    return ordinary(folder, name, "ts", codec, 200, size=(32, 32), stamps=range(first, first + 200), plans=plans)


# e: a lost cluster.


@row("e cluster by stride", [{"num_frames": 5}])
@row("e cluster by rate", [{"num_frames": 5, "frame_rate": 25.0}])
@row("e cluster by another rate", [{"num_frames": 6, "frame_rate": 7.3, "clip_stride": 1}])
def cluster(
    folder: Path,
    name: str,
    plans: list[dict[str, Any]],
    codec: str = "ffv1",
    gop: int = 1,
    which: int = 1,
    length: str = "640",
    **settings: Any,
) -> Case:
    settings["mux_options"] = {"cluster_time_limit": length}
    case = ordinary(folder, name, "mkv", codec, 60, gop=gop, plans=plans, **settings)
    gone = lose_cluster(case.path, which)
    truth = case.truth
    truth.numbers = [number for number in range(60) if not gone[0] <= number / 25 * 1000 < gone[1]]
    truth.times = [number / 25 for number in truth.numbers]
    cut = next(i for i, number in enumerate(truth.numbers) if number != i)
    truth.cuts = {cut} if gone[1] / 1000 - truth.times[cut - 1] > 0.6 else set()  # else it may be a hold
    # What is predicted from lost frames, up to the next key frame, is anybody's guess.
    key = -(-gone[1] // 40 // gop) * gop
    truth.free = truth.lost = {i for i in range(cut, len(truth.numbers)) if truth.numbers[i] < key}
    truth.planned = False
    return case


# p: two frames at one time.

_TIED = [0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 360, *range(760, 1200, 40)]


@row("p tie mkv")
def tie(folder: Path, name: str, codec: str = "ffv1", stamps: Sequence[int] = _TIED) -> Case:
    plans = [{"num_frames": 8, "frame_rate": 12.5}, STRIDE]
    return ordinary(folder, name, "mkv", codec, len(stamps), stamps=stamps, time_base=Fraction(1, 1000), plans=plans)


@row("p tie mp4")
def tie_mp4(folder: Path, name: str, before: int = 10, extension: str = "mp4") -> Case:
    """Frame `before` is shown at the time of the one before it, then nothing new for 0.4 s."""
    at = 40 * (before - 1)
    odd = [*range(0, at + 1, 40), at + 1, *range(at + 401, at + 841, 40)]
    case = ordinary(
        folder, name, extension, "mpeg4", len(odd), stamps=odd, time_base=Fraction(1, 1000),
        plans=[{"num_frames": 8, "frame_rate": 12.5}, STRIDE], mux_options={"video_track_timescale": "1000"},
    )  # fmt: skip
    data = bytearray(case.path.read_bytes())
    place = data.index(struct.pack(">II", 1, 1), data.index(b"stts"))  # one interval of one unit
    data[place : place + 8] = struct.pack(">II", 1, 0)
    case.path.write_bytes(data)
    case.truth.times = [(stamp - (stamp > at)) / 1000 for stamp in odd]
    end = case.truth.times[-1] + 0.04
    case.truth.ends = (end, end)
    return case


# r: headers that do not say how long a video is.


@row("r edit inside a frame", "mp4", 0)
@row("r edit inside a frame reordered", "mp4", 1)
@row("r edit inside a frame mov", "mov", 1)
def edited(folder: Path, name: str, extension: str, reordered: int, start: float = 0.61, gop: int = 250) -> Case:
    options = CODECS["h264"].reorder[0] if reordered else None
    source = ordinary(folder, f"{name}-source", extension, "h264", 150, gop=gop, options=options)
    path = folder / f"{name}.{extension}"
    program("-ss", str(start), "-i", source.path, "-c", "copy", path)
    numbers = list(range(math.ceil(start * 25), 150))
    truth = source.truth
    truth.numbers, truth.times = numbers, [(number - numbers[0]) / 25 for number in numbers]
    truth.ends = (len(numbers) / 25,) * 2
    plans: list[dict[str, Any]] = [
        {"num_frames": 4, "frame_rate": 25.0},
        {"num_frames": 5, "frame_rate": 10.0, "windows": "centre"},
        {"num_frames": 4, "frame_rate": 25.0, "max_clips_per_video": 3, "pick": "spread"},
        STRIDE,
    ]
    return Case(name, path, truth, plans, [48], policies=POLICIES[:1])


@row("r short header")
def short_header(folder: Path, name: str) -> Case:
    case = ordinary(folder, name, "mp4", "h264", 155, plans=[{"num_frames": 8, "frame_rate": 10.0}, STRIDE])
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
    return ordinary(folder, name, extension, codec, count, plans=plans)
