"""Which frame is which, in containers and streams that do not say so, and behind damage; both decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from tests.video.fields import write_fields
from tests.video.hostile import remux, run_ffmpeg
from tests.video.making import numbered_frame, numbers, write_video
from vtok.video import frames_ffmpeg, reading
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.probe import probe
from vtok.video.timeline import read_timeline

SIDE = 96
DECODERS = ("pyav", "ffmpeg")
Decoder = Literal["pyav", "ffmpeg"]
Shown = list[int | None]
_H264 = {"preset": "veryfast", "bf": "2", "sc_threshold": "0"}
_MPEG2 = {"bf": "2", "qscale": "2"}


def _video(path: Path, count: int, codec: str = "libx264", options: dict[str, str] | None = None, **more: Any) -> Path:
    options = options or {"libx264": _H264, "mpeg4": {"qscale": "2"}}.get(codec, _MPEG2)
    return write_video(path, count, codec=codec, options=options, size=(SIDE, SIDE), **more)


def _span(start: int, count: int = 1) -> ClipSpan:
    return ClipSpan(start, 1, start / 25, (start + count) / 25, None, count)


def _decoded(path: Path, spans: list[ClipSpan], decoder: Decoder, policy: str = "reference") -> list[Any]:
    found = dict(decode_clips(path, probe(path), spans, resolution=SIDE, decoder=decoder, policy=policy))  # type: ignore[arg-type]
    return [found[i] for i in range(len(spans))]


def _shown(path: Path, count: int, decoder: Decoder, policy: str = "reference") -> Shown:
    """The number that every frame carries, decoded as a clip of its own; None for one that cannot be had."""
    clips = _decoded(path, [_span(i) for i in range(count)], decoder, policy)
    return [None if isinstance(clip, VideoError) else numbers(clip)[0] for clip in clips]


def _packets(path: Path) -> list[tuple[int, bytes, bool]]:
    """(about where in the file, bytes, key frame) of every packet."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]


# -- b: clips that are reached by a jump -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Broadcast containers, which have no index."""
    folder = tmp_path_factory.mktemp("streams")
    codecs = {
        "a.ts": "libx264",
        "a.m2ts": "libx264",
        "b.ts": "mpeg2video",
        "a.mpg": "mpeg2video",
        "a.vob": "mpeg2video",
    }
    return {name: _video(folder / name, 420, codec, gop=30) for name, codec in codecs.items()}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["a.ts", "a.m2ts", "b.ts", "a.mpg", "a.vob"])
def test_clips_reached_by_a_jump_are_found_in_streams(name: str, decoder: Decoder, streams: dict[str, Path]) -> None:
    """Row b: the last clips, and those at key frames."""
    for starts in ([412], [2, 390], [390, 412], [5, 210, 240, 414]):
        clips = _decoded(streams[name], [_span(start, 6) for start in starts], decoder)
        assert [numbers(clip) for clip in clips] == [list(range(start, start + 6)) for start in starts]


@pytest.mark.parametrize("name", ["a.ts", "b.ts", "a.mpg"])
def test_a_jump_decodes_little_in_streams(name: str, streams: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, true = 0, reading.Reading._decode

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return true(self, *arguments)

    monkeypatch.setattr(reading.Reading, "_decode", counted)
    _decoded(streams[name], [_span(2, 6), _span(392, 6)], "pyav")
    assert decoded < 60


def test_a_seek_that_leads_nowhere_costs_no_clip(streams: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The landing is never found, so the pass starts over."""
    monkeypatch.setattr(reading, "_MARGINS", {True: (-3.0,), False: (-3.0,)})
    clips = _decoded(streams["a.ts"], [_span(2, 6), _span(392, 6)], "pyav")
    assert numbers(clips[1]) == list(range(392, 398))


# -- c: one field a packet ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("reorder", [False, True])
@pytest.mark.parametrize("name", ["f.ts", "f.mkv", "f.mp4", "f.avi", "f.264"])
def test_two_fields_are_one_frame(name: str, reorder: bool, decoder: Decoder, tmp_path: Path) -> None:
    """Row c: H.264 with one field a packet: 24 frames are 24 frames; a frame in one packet among them is one, too."""
    mixed = {"paired": lambda number: number % 3 != 1} if reorder else {}
    path = write_fields(tmp_path / name, 24, reorder=reorder, **mixed)
    facts = probe(path)
    assert (facts.frames, read_timeline(path, 0).frames) == (24, 24)
    assert _shown(path, 24, decoder) == list(range(24))
    if name != "f.avi":
        assert (facts.fps, facts.duration) == (pytest.approx(25), pytest.approx(0.96, abs=0.05))


# -- d: damage ---------------------------------------------------------------------------------------------------------


def _noisy(path: Path, count: int, codec: str, options: dict[str, str]) -> Path:
    """A video with the number in its lower half, and noise above it: data that decoders notice damage of."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.gop_size, stream.options = SIDE, SIDE, 12, options
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(count):
            pixels = numbered_frame(number, SIDE, SIDE)
            pixels[:40] = random.integers(0, 256, (40, SIDE, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def _spoil(path: Path, packet: int) -> None:
    """Overwrites the beginning of one packet: no decoder takes it for a picture."""
    data = bytearray(path.read_bytes())
    near, content, _ = _packets(path)[packet]
    place, size = data.index(content, near), min(200, len(content))
    data[place : place + size] = b"\x55" * size
    path.write_bytes(data)


def _drop(path: Path, packet: int) -> None:
    """Removes 188 bytes of a transport stream, of the middle of a packet."""
    data = path.read_bytes()
    (place, _, _), (following, _, _) = _packets(path)[packet : packet + 2]
    cut = place + (following - place) // 188 // 2 * 188
    path.write_bytes(data[:cut] + data[cut + 188 :])


_DAMAGE: dict[str, tuple[str, dict[str, str], Callable[[Path, int], None], int]] = {
    "d.mp4": ("libx264", _H264, _spoil, 12),
    "d.mkv": ("libx264", _H264, _spoil, 12),
    "d.avi": ("mpeg4", {"qscale": "3"}, _spoil, 12),
    "b.avi": ("mpeg4", {"qscale": "3", "bf": "2"}, _spoil, 12),
    "h.avi": ("libx264", _H264, _spoil, 12),
    "d.mov": ("mjpeg", {}, _spoil, 1),
    "d.ts": ("libx264", _H264, _drop, 12),
    "b.ts": ("mpeg2video", {"bf": "2", "qscale": "3"}, _drop, 12),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", list(_DAMAGE))
def test_one_damaged_packet_costs_no_more_than_its_group(name: str, decoder: Decoder, tmp_path: Path) -> None:
    """Row d: at 20 %; from the next key frame on all is intact, and has its right number."""
    codec, options, damage, group = _DAMAGE[name]
    path = _noisy(tmp_path / name, 60, codec, options)
    assert _shown(path, 60, decoder) == list(range(60))
    damage(path, 13)
    shown = _shown(path, 60, decoder)
    lost = [i for i, number in enumerate(shown) if number is None]
    assert lost
    assert lost[0] >= 11
    assert lost[-1] < 24
    assert len(lost) <= group + 1
    assert all(number in (i, None) for i, number in enumerate(shown))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_frames_that_need_lost_packets_of_a_broadcast_are_none(codec: str, decoder: Decoder, tmp_path: Path) -> None:
    """Wherever packets of a transport stream are gone: what is shown has all its pixels, in its order."""
    whole = _noisy(tmp_path / "whole.ts", 36, codec, _H264 if codec == "libx264" else _MPEG2)
    right = {numbers(clip)[0]: clip for clip in _decoded(whole, [_span(i) for i in range(36)], "pyav")}
    data = whole.read_bytes()
    packets = len(data) // 188
    for start in range(packets // 5, packets * 9 // 10, packets // 30):
        path = tmp_path / f"{start}.ts"
        path.write_bytes(data[: start * 188] + data[(start + 12) * 188 :])
        shown = _decoded(path, [_span(i) for i in range(probe(path).frames)], decoder)
        had = [clip for clip in shown if not isinstance(clip, VideoError)]
        order = [numbers(clip)[0] for clip in had]
        assert order == sorted(set(order)) and len(order) >= 16
        for number, clip in zip(order, had, strict=True):
            np.testing.assert_array_equal(clip, right[number])


@pytest.mark.parametrize("decoder", DECODERS)
def test_clips_behind_damage_are_had(decoder: Decoder, tmp_path: Path) -> None:
    """Like decord's corrupted.mp4: 49 of 50 frames can be decoded, and no clip but one needs the other."""
    path = _noisy(tmp_path / "a.mp4", 50, "libx264", {"preset": "veryfast", "bf": "0"})
    _spoil(path, 35)
    clips = _decoded(path, [_span(start, 5) for start in range(0, 50, 5)], decoder)
    assert [isinstance(clip, VideoError) for clip in clips] == [start == 35 for start in range(0, 50, 5)]
    assert numbers(clips[8]) == [40, 41, 42, 43, 44] or clips[8] is None


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_streams_joined_with_cat(codec: str, decoder: Decoder, tmp_path: Path) -> None:
    """Row d: the clock starts again in the middle, the counters of the transport stream break off; nothing is lost."""
    parts = [_video(tmp_path / f"{part}.ts", count, codec) for part, count in enumerate((30, 26))]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    shown = _shown(path, 56, decoder)
    assert shown == [*range(30), *range(26)]


def _joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


_CHANGES: dict[str, dict[str, Any]] = {
    "size": {"size": (48, 144)},
    "format": {"pix_fmt": "yuv444p"},
    "colours": {"options": {**_H264, "x264-params": "colormatrix=bt709:range=pc"}},
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("change", list(_CHANGES))
def test_frames_that_change_within_a_file(change: str, decoder: Decoder, tmp_path: Path) -> None:
    """Parts joined with cat are decoded to the bytes that each has alone, also where only the second is asked for."""
    kinds: list[dict[str, Any]] = [{"options": _H264}, {"options": _H264, **_CHANGES[change]}]
    parts = [write_video(tmp_path / f"{i}.ts", 20, **kind) for i, kind in enumerate(kinds)]
    path = _joined(tmp_path / "joined.ts", *parts)
    for policy in ("reference", "fast"):
        alone = [clip for part in parts for clip in _decoded(part, [_span(0, 10), _span(10, 10)], "pyav", policy)]
        np.testing.assert_array_equal(_decoded(path, [_span(i, 10) for i in (0, 10, 20, 30)], decoder, policy), alone)
        np.testing.assert_array_equal(_decoded(path, [_span(30, 10)], decoder, policy), alone[3:])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_jump_to_frames_of_another_size(decoder: Decoder, tmp_path: Path) -> None:
    sizes = ((48, 48), (96, 144))
    parts = [
        write_video(tmp_path / f"{i}.ts", 200, codec="mpeg2video", options=_MPEG2, size=size)
        for i, size in enumerate(sizes)
    ]
    path = tmp_path / "joined.mkv"
    run_ffmpeg("-i", _joined(tmp_path / "joined.ts", *parts), "-c", "copy", path)
    alone = _decoded(parts[0], [_span(2, 3)], "pyav") + _decoded(parts[1], [_span(180, 3)], "pyav")
    np.testing.assert_array_equal(_decoded(path, [_span(2, 3), _span(380, 3)], decoder), alone)


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_codec_joined_behind_costs_only_itself(decoder: Decoder, tmp_path: Path) -> None:
    """The ffmpeg program, left alone, takes the codec of the last part of a short file for that of the whole one."""
    parts = [_video(tmp_path / f"{codec}.ts", 30, codec) for codec in ("libx264", "mpeg2video")]
    shown = _shown(_joined(tmp_path / "joined.ts", *parts), 59, decoder)
    assert shown[:28] == list(range(28))
    assert shown[30:] == [None] * 29


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("overlap", [2, 3, 5])
def test_joined_streams_whose_clocks_overlap(overlap: int, decoder: Decoder, tmp_path: Path) -> None:
    """By so many frames the second part's clock begins before the first part's ends."""
    first, alone, second = (tmp_path / f"{i}.ts" for i in range(3))
    _video(first, 30)
    with av.open(str(_video(alone, 30))) as source, av.open(str(second), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.stream = stream
                packet.pts += (30 - overlap) * 3600
                packet.dts += (30 - overlap) * 3600
                target.mux(packet)
    path = _joined(tmp_path / "joined.ts", first, second)
    assert _shown(path, 60, decoder) == [*range(30), *range(30)]
    assert [(s.first, s.end) for s in probe(path).segments] == [(0, 30), (30, 60)]


# -- i, j, q: containers without a time stamp a picture ----------------------------------------------------------------

_STAMPLESS = {
    "i.avi": ("libx264", _H264),
    "i.asf": ("libx264", _H264),
    "plain.avi": ("libx264", {**_H264, "bf": "0"}),
    "plain.asf": ("libx264", {**_H264, "bf": "0"}),
    "pyramid.asf": ("libx264", {"preset": "medium", "x264-params": "bframes=5:b-pyramid=normal:b-adapt=0"}),
    "pyramid.avi": ("libx264", {"preset": "medium", "x264-params": "bframes=5:b-pyramid=normal:b-adapt=0"}),
    "m.asf": ("mpeg2video", _MPEG2),
    "m.avi": ("mpeg2video", _MPEG2),
    "h.mpg": ("libx264", _H264),
    "x.wmv": ("wmv2", {"qscale": "2"}),
    "p.avi": ("mpeg4", {"qscale": "2", "bf": "2"}),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", list(_STAMPLESS))
def test_containers_without_a_stamp_a_picture(name: str, decoder: Decoder, tmp_path: Path) -> None:
    """Rows i and j: the right frame, by stride and by rate."""
    codec, options = _STAMPLESS[name]
    path = _video(tmp_path / name, 40, codec, options)
    assert probe(path).frames == 40
    assert _shown(path, 40, decoder, "fast") == list(range(40))
    by_rate = ClipSpan(None, None, 0.0, 1.6, 12.5, 20)
    assert numbers(_decoded(path, [by_rate], decoder)[0]) == list(range(0, 40, 2))


@pytest.mark.parametrize("decoder", DECODERS)
def test_tiny_program_streams_are_decoded(decoder: Decoder, tmp_path: Path) -> None:
    """Row j: many pictures share a packet of the container there, and its one time stamp."""
    path = tmp_path / "tiny.mpg"
    small = ["-s", "32x32", "-pix_fmt", "yuv420p", "-c:v", "mpeg2video", "-bf", "2", "-g", "12"]
    run_ffmpeg("-i", _video(tmp_path / "a.mkv", 40, "ffv1", {"level": "3"}), *small, path)
    assert probe(path).frames == 40
    clips = dict(decode_clips(path, probe(path), [_span(i) for i in range(40)], resolution=32, decoder=decoder))
    assert [numbers(clips[i])[0] for i in range(40)] == list(range(40))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video", "libx264"])
def test_raw_streams_are_counted(codec: str, decoder: Decoder, tmp_path: Path) -> None:
    """Row q: elementary streams under .mpg have no time stamps at all."""
    path = tmp_path / "raw.mpg"
    form = "h264" if codec == "libx264" else codec
    run_ffmpeg("-i", _video(tmp_path / "a.mkv", 30, codec), "-c", "copy", "-f", form, path)
    assert _shown(path, 30, decoder) == list(range(30))
    clips = _decoded(path, [ClipSpan(0, 1, 0, 0.32, None, 8), ClipSpan(3, 4, 0.12, 1, None, 6)], decoder)
    assert [numbers(clip) for clip in clips] == [list(range(8)), list(range(3, 24, 4))]


# -- m: pictures that are not coded, and beginnings --------------------------------------------------------------------


def _not_coded(packet: bytes, time_bits: int) -> bytes:
    """The header of an MPEG-4 picture (ISO/IEC 14496-2, 6.2.5), with vop_coded = 0."""
    at = packet.index(b"\0\0\1\xb6") + 4
    bits = "".join(format(byte, "08b") for byte in packet[at : at + 8])
    end = bits.index("0", 2) + 1 + 1 + time_bits + 1
    kept = bits[:end] + "0" + "0"
    kept += "1" * (-len(kept) % 8)
    return b"\0\0\1\xb6" + int(kept, 2).to_bytes(len(kept) // 8, "big")


def _with_repeats(folder: Path, name: str, repeats: Sequence[int], count: int) -> Path:
    """Every picture in `repeats` is as the one before, and not coded."""
    path = folder / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height = stream.width = SIDE
        stream.pix_fmt, stream.gop_size, stream.options = "yuv420p", 12, {"qscale": "2"}
        stream.codec_context.thread_count = 1
        shown = 0
        for number in range(count):
            shown = shown if number in repeats else number
            frame = av.VideoFrame.from_ndarray(numbered_frame(shown, SIDE, SIDE), format="rgb24")
            for packet in stream.encode(frame):
                if number in repeats:
                    short = av.Packet(_not_coded(bytes(packet), (25 - 1).bit_length()))
                    short.pts, short.dts, short.time_base = packet.pts, packet.dts, packet.time_base
                    short.duration, short.stream = packet.duration, stream
                    packet = short
                container.mux(packet)
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["n.avi", "n.mp4", "n.mkv"])
def test_pictures_that_are_not_coded_repeat_the_one_before(name: str, decoder: Decoder, tmp_path: Path) -> None:
    """Row m: later frames keep their numbers."""
    repeats = [3, 7, 8, 9, 23, 29]
    path = _with_repeats(tmp_path, name, repeats, 30)
    wanted, last = [], 0
    for number in range(30):
        last = last if number in repeats else number
        wanted.append(last)
    assert probe(path).frames == 30
    assert _shown(path, 30, decoder) == wanted
    assert numbers(_decoded(path, [ClipSpan(3, 5, 0.12, 1.2, None, 6)], decoder)[0]) == [
        wanted[i] for i in range(3, 30, 5)
    ]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["o.ts", "o.mkv", "o.avi", "h.ts", "h.mkv", "h.avi"])
def test_a_file_that_begins_with_an_open_group(name: str, decoder: Decoder, tmp_path: Path) -> None:
    """Row m: pictures before the first key frame need others that are not there; later ones keep their numbers."""
    codec = "libx264" if name[0] == "h" else "mpeg2video"
    options = {"preset": "veryfast", "x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=12:min-keyint=12:scenecut=0"}
    whole = _video(tmp_path / "whole.ts", 37, codec, options if codec == "libx264" else {**_MPEG2, "sc_threshold": "0"})
    keys = [place for place, (_, _, key) in enumerate(_packets(whole)) if key]
    path = remux(whole, tmp_path / name, lambda number: number >= keys[1])
    first = next(number for number in _decode_plainly(whole, keys[1]) if number is not None)
    count = 37 - keys[1]
    leading = first - (37 - count)
    assert leading > 0
    assert probe(path).frames == count
    assert _shown(path, count, decoder) == [None] * leading + list(range(first, 37))


def _decode_plainly(path: Path, packet: int) -> list[int]:
    """The number of the key frame in a packet, decoded alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        packets = [p for p in container.demux(stream) if p.size]
        context = stream.codec_context
        frames = [*context.decode(packets[packet]), *context.decode(None)]
        return numbers(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))


# -- p, blocker 2: what the ffmpeg program is told ---------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_stamps_below_zero(decoder: Decoder, tmp_path: Path) -> None:
    """A transport stream that begins 1 s before its 33-bit clock runs over: FFmpeg's stamps rise through zero."""
    plain, path = _video(tmp_path / "plain.ts", 300, gop=25), tmp_path / "wraps.ts"
    run_ffmpeg("-copyts", "-i", plain, "-c", "copy", "-output_ts_offset", 2**33 / 90000 - 4, "-f", "mpegts", path)
    stamps = read_timeline(path, 0).pts
    assert stamps[0] < 0 < stamps[-1]
    spans = [_span(0, 6), ClipSpan(4, 7, 0.16, 10, None, 40), _span(290, 6), ClipSpan(None, None, 0.2, 3.4, 12.5, 40)]
    clips = _decoded(path, spans, decoder)
    wanted = [range(6), range(4, 284, 7), range(290, 296), range(5, 85, 2)]
    assert [numbers(clip) for clip in clips] == [list(numbers_) for numbers_ in wanted]


@pytest.mark.parametrize("decoder", DECODERS)
def test_two_frames_at_one_time(decoder: Decoder, tmp_path: Path) -> None:
    """Both count; by stride each has its number, also far behind, and by time the later one is displayed."""
    stamps = [40 * number for number in range(400)]
    stamps[6], stamps[200] = stamps[5], stamps[199]
    options = {"preset": "veryfast", "bf": "0"}
    path = _video(tmp_path / "tied.mkv", 400, "libx264", options, stamps=stamps, gop=30)
    assert len(set(read_timeline(path, 0).pts)) == 398
    spans = [_span(2, 8), _span(196, 8), ClipSpan(3, 3, 0.12, 2, None, 8), ClipSpan(None, None, 0.0, 0.4, 25.0, 10)]
    clips = _decoded(path, spans, decoder)
    wanted = [[*range(2, 10)], [*range(196, 204)], [*range(3, 27, 3)], [0, 1, 2, 3, 4, 6, 6, 7, 8, 9]]
    assert [numbers(clip) for clip in clips] == wanted


@pytest.mark.parametrize("name", ["i.avi", "i.asf", "damaged.avi", "n.avi", "joined.ts"])
def test_an_ffmpeg_that_cannot_number_packets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 7.1: its frames are counted, and PyAV says which of them come."""
    wanted: Shown = list(range(40))
    if name == "joined.ts":
        parts = [_video(tmp_path / f"{part}.ts", 20).read_bytes() for part in range(2)]
        (tmp_path / name).write_bytes(b"".join(parts))
        wanted = [*range(20), *range(20)]
    elif name == "damaged.avi":
        _spoil(_noisy(tmp_path / name, 40, "mpeg4", {"qscale": "3", "bf": "2"}), 13)
        wanted = _shown(tmp_path / name, 40, "pyav")
        assert None in wanted and wanted[30:] == list(range(30, 40))
    elif name == "n.avi":
        _with_repeats(tmp_path, name, [7, 8], 40)
        wanted[7:9] = [6, 6]
    else:
        _video(tmp_path / name, 40)
    monkeypatch.setattr(frames_ffmpeg, "numbers_packets", lambda: False)
    assert _shown(tmp_path / name, 40, "ffmpeg") == wanted


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264"])
def test_avi_whose_camera_dropped_frames(codec: str, decoder: Decoder, tmp_path: Path) -> None:
    """Empty chunks stand for them: they are no frames, and the one before stays on display."""
    times = [time for time in range(40) if time not in (5, 6, 7, 20)]
    path = tmp_path / "dropped.avi"
    options = {"mpeg4": {"qscale": "2", "bf": "2"}, "mjpeg": {}, "libx264": {"preset": "veryfast", "bf": "0"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height = stream.width = SIDE
        stream.pix_fmt, stream.options = "yuvj420p" if codec == "mjpeg" else "yuv420p", options[codec]
        for time in times:
            frame = av.VideoFrame.from_ndarray(numbered_frame(time, SIDE, SIDE), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert _shown(path, 36, decoder) == times
    (clip,) = _decoded(path, [ClipSpan(None, None, 0.0, 0.96, 25.0, 24)], decoder)
    assert numbers(clip) == [0, 1, 2, 3, 4, 4, 4, 4, *range(8, 20), 19, 21, 22, 23]
