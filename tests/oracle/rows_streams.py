"""Which frame is which: jumps, fields, damage, order, uncoded pictures. See `tests.oracle.rows`."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from tests.oracle import bitstreams
from tests.oracle.catalogue import CODECS, Codec, tolerance
from tests.oracle.damage import BadPacket, HeadlessPacket
from tests.oracle.drive import POLICIES, Case
from tests.oracle.encode import Edit, Encoding, changed, encode
from tests.oracle.making import STRIDE, ordinary, row
from tests.oracle.picture import Picture
from tests.oracle.truth import Truth

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
    return ordinary(folder, name, extension, codec, 400, options=options, plans=plans, muxer=muxer, mux_options=mux)


# c: one field a packet.


@row("c fields ts", "ts")
@row("c fields mkv", "mkv")
@row("c fields mp4", "mp4")
def fields(
    folder: Path, name: str, extension: str, size: tuple[int, int] = (64, 64), count: int = 24, gop: int = 8
) -> Case:
    picture = Picture(*size)
    path, raw = folder / f"{name}.{extension}", folder / f"{name}.h264"
    packets = []
    for number in range(count):
        for bottom in (False, True):
            data = bitstreams.avc_field(picture, number, bottom, number % gop)
            key = number % gop == 0 and not bottom
            packets.append((bitstreams.avc_headers(size[1], size[0], 25) + data if key else data, key))
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
    truth.chroma, truth.tolerance, truth.soft = (2, 6), (3.0, 1.0, 3.0), 0
    plans = [STRIDE, {"num_frames": 4, "frame_rate": 25.0}]
    return Case(name, path, truth, plans, [min(size)], policies=POLICIES[:1])


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
    case = ordinary(folder, name, extension, codec, 100, pix_fmt=pix_fmt, edit=harm.edit)
    harm.finish(case.path)
    case.truth.free, case.truth.lost = truth.free, truth.lost
    return case


@row("d joined ts")
def joined(folder: Path, name: str) -> Case:
    parts = [
        ordinary(folder, f"{name}-{start}", "ts", "h264", 40, stamps=range(start, start + 40)).path for start in (0, 7)
    ]
    case = ordinary(folder, name, "ts", "h264", 40)
    case.path.write_bytes(b"".join(part.read_bytes() for part in parts))
    case.truth.numbers = [*range(40), *range(40)]
    case.truth.times = []  # where the second one begins in time, nobody knows
    case.truth.planned, case.truth.cuts = False, {40}
    case.truth.lost = {38, 39}  # a demuxer holds the break of the counter against what it was in the middle of
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
    plans: list[dict[str, Any]] = [{"num_frames": 2}, {"num_frames": 2, "frame_rate": 25.0}]
    return ordinary(folder, name, extension, codec, count, options=options, plans=plans, size=size)


# m: pictures that are not coded, open groups of pictures.


@row("m not coded avi", "avi")
@row("m not coded mp4", "mp4")
def not_coded(folder: Path, name: str, extension: str, repeats: frozenset[int] = frozenset({5, 6, 13, 30})) -> Case:
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
    return Case(name, path, truth, [STRIDE, {"num_frames": 4, "frame_rate": 25.0}], [48], policies=POLICIES[:1])


@row("m open gop ts", "ts", "h264", 2)
@row("m open gop mkv", "mkv", "h264", 2)
@row("m open gop mpeg2 ts", "ts", "mpeg2", 0)
@row("m open gop mpg", "mpg", "mpeg2", 0)
@row("m open gop hevc ts", "ts", "hevc", 1)
@row("m open gop avi", "avi", "mpeg2", 0)
@row("m open gop mpeg4 avi", "avi", "mpeg4", 0)
def open_gop(folder: Path, name: str, extension: str, codec: str, which: int, **settings: Any) -> Case:
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

    case = ordinary(folder, name, extension, codec, 48, options=CODECS[codec].reorder[which], edit=edit, **settings)
    key = begun.pop()
    case.truth.numbers = begun
    case.truth.times = [(number - begun[0]) / 25 for number in begun]
    case.truth.ends = (len(begun) / 25,) * 2
    case.truth.lost = case.truth.free = {i for i, number in enumerate(begun) if number < key}
    case.truth.planned = False
    return case


# q: elementary streams under a name of their own.


@row("q mpeg2 under mpg", "mpeg2", "mpeg2video", 0)
@row("q mpeg2 under mpg reordered", "mpeg2", "mpeg2video", 1)
@row("q mpeg1 under mpg", "mpeg1", "mpeg1video", 0)
@row("q mpeg1 under mpg reordered", "mpeg1", "mpeg1video", 1)
def elementary(folder: Path, name: str, codec: str, muxer: str, reordered: int) -> Case:
    options = CODECS[codec].reorder[0] if reordered else None
    return ordinary(folder, name, "mpg", codec, 28, options=options, muxer=muxer, plans=[STRIDE], by_rate=False)


@row("q h264", "h264", "h264")
@row("q hevc", "hevc", "hevc")
@row("q mpeg4", "m4v", "mpeg4")
def other_elementary(folder: Path, name: str, extension: str, codec: str) -> Case:
    options = CODECS[codec].reorder[0]
    return ordinary(folder, name, extension, codec, 28, options=options, plans=[STRIDE], by_rate=False)
