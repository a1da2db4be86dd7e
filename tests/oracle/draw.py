"""Draws files: every choice comes from one generator, so that a seed and a number name a file."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.oracle.catalogue import (
    CODECS,
    CONTAINERS,
    FIXED_RATE,
    MUXERS,
    RAW,
    TICK,
    UNSTAMPED,
    Codec,
    chroma_margin,
    tolerance,
)
from tests.oracle.damage import DAMAGES
from tests.oracle.display import set_matrix
from tests.oracle.drive import Case
from tests.oracle.encode import Encoding, encode
from tests.oracle.picture import TURNS, Colours, Picture
from tests.oracle.specials import SPECIALS
from tests.oracle.truth import Truth, last_end, regular

_RATES = (Fraction(25), Fraction(30), Fraction(24), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(50))
_MORE_RATES = (*_RATES, Fraction(60), Fraction(60000, 1001))
_ODD_RATES = (*_MORE_RATES, Fraction(10), Fraction(15), Fraction(12), Fraction(5), Fraction(120), Fraction(8))
_SPECIAL = 0.35  # share of files that no setting of an encoder makes
_WRAP = (1 << 33) // 90000 + 1  # seconds after which MPEG's clock begins again


@dataclass
class Drawn:
    """What was chosen; `made` turns it into a file."""

    name: str
    extension: str
    codec: Codec
    encoding: Encoding
    picture: Picture
    numbers: list[int]
    stamps: list[int]
    damage: str | None = None


def draw(seed: int, number: int, folder: Path) -> Case:
    """File `number` of a seed, written into the folder."""
    rng = random.Random(f"oracle {seed} {number}")
    while True:
        try:
            return _draw(rng, seed, number, folder)
        except (av.error.FFmpegError, ValueError, subprocess.CalledProcessError):
            continue  # an encoder or container that refuses what was drawn


def _draw(rng: random.Random, seed: int, number: int, folder: Path) -> Case:
    if rng.random() < _SPECIAL:
        kind = rng.choice(list(SPECIALS))
        case = SPECIALS[kind](rng, folder, f"{seed}-{number}")
        case.name = f"{kind}: {case.name}"
        case.plans = case.plans or plans(rng, case.truth)
        return case
    drawn = _choose(rng)
    path = folder / f"{seed}-{number}.{drawn.extension}"
    truth = _make(drawn, path, rng)
    return Case(drawn.name, path, truth, plans(rng, truth), [_resolution(rng, drawn.picture)], whole=rng.random() < 0.5)


def _choose(rng: random.Random) -> Drawn:
    extension = rng.choice(list(CONTAINERS))
    name = rng.choice(CONTAINERS[extension])
    codec = CODECS[name]
    pix_fmt = _format(rng, extension, name, codec)
    rgb = any(part in pix_fmt for part in ("rgb", "bgr", "gbr"))
    kind = "gray" if pix_fmt.startswith("gray") else "rgb" if rgb else "yuv"
    carries = codec.tags or (extension == "mkv" and name in ("ffv1", "mpeg4", "msmpeg4v3"))  # others say their own
    full = pix_fmt.startswith("yuvj")
    matrix = "bt601"
    tagged = carries and kind != "rgb" and (rng.random() < 0.6 or kind == "gray")
    if tagged:
        full = full or (rng.random() < 0.35 and name not in ("prores",))
        matrix = rng.choice(["bt601", "bt709", "bt709", "bt2020"])
    elif kind == "gray":
        full = True  # JPEG and PNG
    depth = av.VideoFormat(pix_fmt, 16, 16).components[0].bits
    colours = Colours(matrix if kind == "yuv" else "bt601", full, depth, kind)
    width, height = _size(rng, codec, pix_fmt, name)
    turn = TURNS[0]
    if extension in ("mp4", "mov", "3gp") and rng.random() < 0.35:
        turn = rng.choice(TURNS)
    upright = (width, height) if turn[0] == 0 else (height, width)
    crop = (0, 0, 0, 0)
    patches = tuple(tuple(rng.randrange(30, 226) for _ in range(3)) for _ in range(4))
    picture = Picture(*upright, colours, patches, crop, turn)  # type: ignore[arg-type]
    rate = rng.choice(_MORE_RATES if codec.regular or extension in ("mxf",) else _ODD_RATES)
    if extension == "mxf":
        rate = rng.choice(_RATES)
    if extension == "rm":
        rate = rng.choice((Fraction(25), Fraction(10), Fraction(15)))
    count = rng.choice([6, 17, 24, 24, 40, 60])
    if min(width, height) < 60 and rng.random() < 0.3:
        count = rng.choice([160, 240, 360])
    count = min(count, 120) if name in ("av1",) else count
    count = min(count, picture.distinct)
    options = dict(codec.options)
    reordered = bool(codec.reorder) and extension not in ("h263",) and rng.random() < 0.6
    if reordered:
        options = dict(rng.choice(codec.reorder))
    mux: dict[str, str] = {}
    if extension in ("mp4", "mov") and rng.random() < 0.3:
        mux["movflags"] = rng.choice(
            ["frag_keyframe+empty_moov", "faststart", "frag_keyframe+empty_moov+default_base_moof"]
        )
    if extension == "m2ts":
        mux["mpegts_m2ts_mode"] = "1"
    encoding = Encoding(
        codec.encoder,
        pix_fmt,
        options,
        MUXERS.get(extension),
        mux,
        1 / rate,
        rate,
        rng.choice([5, 8, 12, 12, 25, 50]),
        tagged,
        rng.choice([None, None, Fraction(4, 3), Fraction(8, 9), Fraction(2)]) if extension not in RAW else None,
        extension in ("ts", "m2ts", "mpg", "vob", "mp4", "mkv", "mov", "flv", "avi") and rng.random() < 0.3,
    )
    if "frag" in mux.get("movflags", ""):
        encoding.sound = False  # whose start would shift the first fragment's frames
    stamps, timing = _timing(rng, extension, codec, encoding, count)
    damage = None
    if rng.random() < 0.2 and not encoding.sound and count >= 24 and name not in ("vp9", "av1", "vp8"):
        able = [key for key, (_, where) in DAMAGES.items() if extension in where]
        damage = rng.choice(able) if able else None
    parts = [extension, name, pix_fmt, f"{width}x{height}", f"{float(rate):.5g}fps", timing, f"{count} frames"]
    parts += ["reordered"] * reordered + [f"turn{TURNS.index(turn)}"] * (turn != TURNS[0]) + ["sound"] * encoding.sound
    parts += [f"{colours.matrix}{'full' if colours.full else ''}"] * tagged + list(mux.values())[:1]
    parts += [f"gop{encoding.gop}"] + ([damage] if damage else []) + [f"sar{encoding.sar}"] * bool(encoding.sar)
    return Drawn(" ".join(map(str, parts)), extension, codec, encoding, picture, list(range(count)), stamps, damage)


def _format(rng: random.Random, extension: str, name: str, codec: Codec) -> str:
    formats = list(codec.formats)
    if name == "rawvideo":
        formats = {"avi": ["bgr24", "yuv420p", "yuyv422"], "mov": ["rgb24", "yuyv422", "uyvy422"]}.get(
            extension, formats
        )
    if name == "ffv1" and extension not in ("mkv",):
        formats = [pix_fmt for pix_fmt in formats if not pix_fmt.startswith("gray")]
    if extension == "mxf":
        wanted = {"mpeg2": ["yuv420p", "yuv422p"], "prores": ["yuv422p10le"], "jpeg2000": ["yuv444p", "rgb24"]}
        formats = wanted.get(name, ["yuv422p10le"])
    if extension == "3gp":
        formats = ["yuv420p"]
    return rng.choice(formats)


def _size(rng: random.Random, codec: Codec, pix_fmt: str, name: str) -> tuple[int, int]:
    width, height = rng.randint(2, 140), rng.randint(2, 140)
    if rng.random() < 0.4:  # the usual shapes, small
        width, height = rng.choice(
            [(100, 100), (64, 36), (160, 90), (90, 160), (114, 64), (178, 100), (48, 48), (128, 96)]
        )
    width, height = max(width, codec.least), max(height, codec.least)
    subsampled = any(part in pix_fmt for part in ("420", "422", "yuyv", "uyvy", "411", "410"))
    step = codec.step if codec.step > 2 or subsampled or name in ("prores", "av1") else 1
    if pix_fmt in ("yuyv422", "uyvy422", "yuv422p") and name in (
        "rawvideo",
        "huffyuv",
        "ffvhuff",
        "utvideo",
        "magicyuv",
    ):
        step = 2
    if name in ("utvideo", "magicyuv", "ffvhuff") and "420" in pix_fmt:
        step = 2
    if name == "ffv1" and pix_fmt in ("yuv411p", "yuv410p"):
        step = 4
    return -(-width // step) * step, -(-height // step) * step


def _timing(rng: random.Random, extension: str, codec: Codec, encoding: Encoding, count: int) -> tuple[list[int], str]:
    """Stamps, and in `encoding` their unit."""
    kind = "cfr"
    if extension not in FIXED_RATE and not codec.regular:
        kind = rng.choice(["cfr", "cfr", "vfr", "coarse", "offset"])
        if kind == "offset" and extension in ("asf", "wmv"):
            kind = "cfr"  # whose first time is rounded, too: frames are up to a tick off each other
    elif extension in ("ts", "m2ts", "mpg", "vob"):
        kind = rng.choice(["cfr", "offset"])
    if extension in ("ts", "m2ts") and rng.random() < 0.4:
        kind = "wrap"
    if extension in ("asf", "wmv") and encoding.options != codec.options:
        kind = "cfr"  # no place for two times a frame
    if kind in ("cfr", "coarse") or count < 2:
        stamps = list(range(count))
        if kind == "coarse":  # whole frames are left out here and there
            at, stamps = 0, []
            for _ in range(count):
                stamps.append(at)
                at += rng.choice([1, 1, 1, 2, 3])
            kind = "vfr"
            return stamps, "coarse"
        return stamps, "cfr"
    encoding.time_base = Fraction(1, 1000 if extension in ("mkv", "webm", "flv", "asf", "wmv") else 90000)
    unit = encoding.time_base
    frame = 1 / encoding.rate
    if codec.encoder in ("mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "flv", "h263p") or codec.regular:
        unit = encoding.time_base = frame  # these encoders keep time in frames
    if kind == "vfr":
        at, stamps = 0, []
        for _ in range(count):
            stamps.append(at)
            at += max(1, round(rng.choice([0.5, 1, 1, 1, 1.3, 2.6]) * min(frame, Fraction(1, 12)) / unit))
        return stamps, "vfr"
    start = rng.choice([1.4, 10, 3600, 40000]) if kind == "offset" else _WRAP - rng.choice([0.3, 1, 7, 30, 55, 59])
    first = round(Fraction(start).limit_denominator(1000) / unit)
    return [first + round(n * frame / unit) for n in range(count)], kind if kind == "wrap" else f"from {start} s"


def _make(drawn: Drawn, path: Path, rng: random.Random) -> Truth:
    encoding, codec = drawn.encoding, drawn.codec
    unit = float(encoding.time_base)
    times = [(stamp - drawn.stamps[0]) * unit for stamp in drawn.stamps]
    last = last_end(times, 1 / float(encoding.rate))
    other = times[-1] + 1 / float(encoding.rate)
    if drawn.extension in UNSTAMPED:
        times = regular(len(times), 1 / float(encoding.rate))
        last = other = len(times) / float(encoding.rate)
    truth = Truth(
        drawn.picture,
        drawn.numbers,
        [] if drawn.extension in RAW else times,
        (min(last, other), max(last, other)),
        max(TICK.get(drawn.extension, 0.0), 5e-4),
        tolerance=tolerance(codec, encoding.pix_fmt),
        soft=0 if codec.exact else 2,
        chroma=chroma_margin(encoding.pix_fmt),
    )
    if drawn.extension in (
        "mpg",
        "vob",
    ):  # FFmpeg guesses between the times that a program stream has
        truth.tick = 3 / float(encoding.rate)
    if drawn.damage:
        harm = DAMAGES[drawn.damage][0](rng, truth, codec, drawn.extension)
        encode(path, drawn.picture, drawn.numbers, drawn.stamps, encoding, harm.edit)
        harm.finish(path)
    else:
        encode(path, drawn.picture, drawn.numbers, drawn.stamps, encoding)
    if codec.encoder == "libsvtav1":
        _must_be_lossless(path, drawn)
    if drawn.picture.turn != TURNS[0]:
        set_matrix(path, drawn.picture.turn)
    return truth


def _must_be_lossless(path: Path, drawn: Drawn) -> None:
    """SVT-AV1 4.1's lossless streams are sometimes none that any decoder takes."""
    shown = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            shown.append(np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[:, : plane.width])
    for number, luma in zip(drawn.numbers, shown, strict=True):
        if not np.array_equal(
            luma[: drawn.picture.coded.shape[0]], drawn.picture.codes(number)[drawn.picture.coded, 0]
        ):
            raise ValueError(f"frame {number} is not what was encoded")


def _resolution(rng: random.Random, picture: Picture) -> int:
    short = min(picture.height, picture.width)
    return max(8, rng.choice([short, short, short * 2 // 3, short // 2, 64, short + 5]))


def plans(rng: random.Random, truth: Truth) -> list[dict[str, Any]]:
    """One plan by stride and one by rate."""
    count = len(truth.numbers)
    stride: dict[str, Any] = {"num_frames": rng.choice([1, 2, 3, 5, 8, min(16, count)])}
    stride["frame_stride"] = rng.choice([1, 1, 1, 2, 3])
    if rng.random() < 0.3:
        stride["clip_stride"] = rng.choice([1, 2, 4, 10])
    if count >= 160 and rng.random() < 0.7:
        stride["max_clips_per_video"], stride["pick"] = rng.choice([1, 2, 4]), rng.choice(["spread", "first"])
    if rng.random() < 0.2:
        stride["windows"] = rng.choice(["centre", "first"])
    rate: dict[str, Any] = {"num_frames": rng.choice([1, 2, 4, 8])}
    mean = len(truth.times) / truth.ends[1] if truth.times and truth.ends[1] > 0 else 25.0
    rate["frame_rate"] = round(rng.choice([mean, mean / 2, mean * 0.73, mean * 1.7, 5.0, 8.0]), 6)
    rate["frame_rate"] = min(1000.0, max(0.5, rate["frame_rate"]))
    if rng.random() < 0.3:
        rate["clip_stride"] = rng.choice([1, 3])
    if count >= 160 and rng.random() < 0.7:
        rate["max_clips_per_video"], rate["pick"] = rng.choice([1, 2, 4]), rng.choice(["spread", "first"])
    return [stride, rate]
