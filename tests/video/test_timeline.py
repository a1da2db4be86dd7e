"""The model of time: stamps of any sign, ties, holes, clocks that start again. Frames say their own numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from schemas.config.data import DataConfig
from tests.datasets.reading import make
from tests.video.making import numbers, run_ffmpeg, write_video
from vtok.video.clips import ClipSpan, plan_clips
from vtok.video.clock import Stamp
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.probe import StreamFacts, probe
from vtok.video.timeline import Segment, Stretch, make_timeline, read_timeline

SIDE = 96
BACKENDS = ("pyav", "ffmpeg")
Backend = Literal["pyav", "ffmpeg"]
WRAP = 2**33 / 90_000  # seconds after which the clock of MPEG-TS runs over


def _video(path: Path, count: int, **options: Any) -> Path:
    return write_video(path, count, size=(SIDE, SIDE), **options)


def _plan(facts: StreamFacts, **config: Any) -> list[ClipSpan]:
    return plan_clips(facts, DataConfig(root=".", **config))


def _numbers(path: Path, spans: list[ClipSpan], decoder: Backend = "pyav") -> list[list[int]]:
    found = dict(decode_clips(path, probe(path), spans, resolution=SIDE, decoder=decoder))
    clips = [found[i] for i in range(len(spans))]
    assert all(isinstance(clip, np.ndarray) for clip in clips), clips
    return [numbers(clip) for clip in clips]


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("before", [59.0, 5.0, 1.0])
def test_a_transport_stream_that_begins_before_the_wrap(before: float, decoder: Backend, tmp_path: Path) -> None:
    """Its stamps are negative (and, with 1 s to go, turn positive in the middle)."""
    plain = _video(tmp_path / "plain.mp4", 100)
    path = tmp_path / "wrap.ts"
    run_ffmpeg("-i", plain, "-c", "copy", "-muxdelay", 0, "-output_ts_offset", WRAP - before, path)
    with av.open(str(path)) as container:
        assert (container.streams.video[0].start_time or 0) < 0, "as the test wants it"
    facts = probe(path)
    assert facts.frames == 100 and facts.duration == pytest.approx(4.0, abs=0.001) and facts.segments == ()
    by_rate = _plan(facts, num_frames=10, frame_rate=25.0)
    assert _numbers(path, by_rate, decoder) == [list(range(s, s + 10)) for s in range(0, 100, 10)]
    by_stride = _plan(facts, num_frames=5, frame_stride=5)
    assert _numbers(path, by_stride, decoder) == [list(range(s, s + 25, 5)) for s in range(0, 100, 25)]


@pytest.mark.parametrize("decoder", BACKENDS)
def test_clips_far_apart_before_the_wrap(decoder: Backend, tmp_path: Path) -> None:
    """Jumps to key frames with negative stamps, and over the wrap, lead where they should."""
    plain = _video(tmp_path / "plain.mp4", 1000, gop=50, options={"preset": "ultrafast"})
    path = tmp_path / "wrap.ts"
    run_ffmpeg("-i", plain, "-c", "copy", "-muxdelay", 0, "-output_ts_offset", WRAP - 30, path)
    starts = [3, 420, 745, 760, 990]
    by_stride = [ClipSpan(s, 1, s / 25, (s + 4) / 25, None, 4) for s in starts]
    by_rate = [ClipSpan(None, None, s / 25, (s + 4) / 25, 25.0, 4) for s in starts]
    assert _numbers(path, [*by_stride, *by_rate], decoder) == [list(range(s, s + 4)) for s in starts] * 2


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_a_file_that_begins_before_zero(name: str, decoder: Backend, tmp_path: Path) -> None:
    path = tmp_path / name
    plain = _video(tmp_path / "plain.mp4", 60)
    run_ffmpeg("-i", plain, "-c", "copy", "-output_ts_offset", -2, "-avoid_negative_ts", "disabled", path)
    facts = probe(path)
    shown = facts.frames  # MP4 cuts off what lies before zero, by an edit list
    assert facts.duration == pytest.approx(shown / 25, abs=0.002)
    spans = _plan(facts, num_frames=shown, frame_rate=25.0)
    assert _numbers(path, spans, decoder) == [list(range(60 - shown, 60))]


def _stamps(times: list[int], durations: list[int] | int = 1) -> list[Stamp]:
    lengths = [durations] * len(times) if isinstance(durations, int) else durations
    return [Stamp(time, time, length, i % 4 == 0) for i, (time, length) in enumerate(zip(times, lengths, strict=True))]


def test_a_timeline_by_hand() -> None:
    """Ticks of 1 s: a hole of 29 s, then a clock that starts again."""
    timeline = make_timeline(_stamps([-3, -2, -1, 0, 30, 31, -3, -2]), [6], 1.0, 1.0)
    assert timeline.pts == [-3, -2, -1, 0, 30, 31, -3, -2]
    assert timeline.times == [0, 1, 2, 3, 33, 34, 35, 36]
    assert timeline.stretches == [Stretch(0, 4, 3, 4, 0), Stretch(4, 6, 3, 35, 4), Stretch(6, 8, 38, 37, 6)]
    assert timeline.segments[0] == Segment(0, 4, 0.0, 4.0)
    assert 34.99 < timeline.segments[1].stop < 35.0 == timeline.segments[2].start
    assert (timeline.duration, timeline.keys, timeline.frames) == (37.0, [0, 4], 8)


def test_the_limited_timeline_has_the_same_times(tmp_path: Path) -> None:
    path = _video(tmp_path / "a.mkv", 300)
    whole, part = read_timeline(path, 0), read_timeline(path, 0, frames=100)
    assert 130 < part.frames < 300
    assert (part.pts[:130], part.times[:130]) == (whole.pts[:130], whole.times[:130])


def _remux(source: Path, path: Path, *, lost: range, options: dict[str, str] | None = None) -> Path:
    """A copy without the packets `lost`, counted in the order of the file; the others keep their stamps."""
    with av.open(str(source)) as old, av.open(str(path), "w", container_options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.size and number not in lost:
                packet.stream = stream
                new.mux(packet)
    return path


def _without_cluster(data: bytes, number: int) -> bytes:
    """A Matroska file that lost one of its clusters."""
    starts = [place for place in range(len(data)) if data.startswith(b"\x1f\x43\xb6\x75", place)]
    return data[: starts[number]] + data[starts[number + 1] :]


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matroska, 96 frames in clusters of 16, a key frame in front of each; frames 32 to 47 are lost: 0.64 s."""
    folder = tmp_path_factory.mktemp("holed")
    options = {"preset": "veryfast", "x264-params": "bframes=0:keyint=16:min-keyint=16:scenecut=0"}
    whole = _video(folder / "whole.mp4", 96, options=options)
    run_ffmpeg("-i", whole, "-c", "copy", "-cluster_time_limit", 620, folder / "clusters.mkv")
    path = folder / "holed.mkv"
    path.write_bytes(_without_cluster((folder / "clusters.mkv").read_bytes(), 2))
    return path


LEFT = [*range(32), *range(48, 96)]  # numbers of the frames of `holed`


@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_lost_matroska_cluster_is_a_cut(holed: Path, decoder: Backend) -> None:
    facts = probe(holed)
    assert facts.frames == 80 and facts.duration == pytest.approx(3.84, abs=0.002)
    assert [(s.first, s.end) for s in facts.segments] == [(0, 32), (32, 80)]
    assert [s[2:] for s in facts.segments] == [
        pytest.approx((0, 1.28), abs=0.002),
        pytest.approx((1.92, 3.84), abs=0.002),
    ]
    by_stride = _plan(facts, num_frames=10)
    assert [span.start_frame for span in by_stride] == [0, 10, 20, 32, 42, 52, 62]
    starts = [0, 10, 20, 48, 58, 68, 78]
    assert [span.start_time for span in by_stride] == pytest.approx([start / 25 for start in starts], abs=0.002)
    assert [span.end_time for span in by_stride] == pytest.approx([(s + 10) / 25 for s in starts], abs=0.002)
    assert _numbers(holed, by_stride, decoder) == [list(range(s, s + 10)) for s in starts]
    by_rate = _plan(facts, num_frames=5, frame_rate=12.5, clip_stride=1)
    seconds = [span.start_time for span in by_rate]
    assert seconds == pytest.approx([*(i * 0.08 for i in range(12)), *(1.92 + i * 0.08 for i in range(20))], abs=0.002)
    for second, found in zip(seconds, _numbers(holed, by_rate, decoder), strict=True):
        first = round(second * 25)
        assert found == list(range(first, first + 10, 2))
        assert (first < 32) == (found[-1] < 32), "no clip straddles the hole"


def test_ingest_and_shard_know_the_cuts(holed: Path, tmp_path: Path) -> None:
    """Through the decoding child: the manifest's times, and frames; with scene cuts asked for, too."""
    (tmp_path / "train").mkdir()
    shutil.copy(holed, tmp_path / "train" / "a.mkv")
    for more in ({}, {"scene_threshold": 100.0}, {"frame_rate": 25.0}):
        made = make(tmp_path, "folder", num_frames=16, resolution=SIDE, **more)
        assert made.rejects == []
        clips = made.clips["train/a.mkv"]
        starts = [0, 16, 48, 64, 80]
        assert [clip.row["start_time"] for clip in clips] == pytest.approx([s / 25 for s in starts], abs=0.002)
        assert [clip.row["end_time"] for clip in clips] == pytest.approx([(s + 16) / 25 for s in starts], abs=0.002)
        assert [numbers(clip.frames_thwc) for clip in clips] == [list(range(s, s + 16)) for s in starts]


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"preset": "veryfast", "x264-params": "bframes=0:keyint=48:min-keyint=48:scenecut=0"}),
        ("libx264", {"preset": "veryfast", "x264-params": "bframes=2:keyint=48:min-keyint=48:scenecut=0"}),
        ("mpeg4", {"qscale": "2"}),
        ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_what_needs_lost_frames_is_in_no_clip(
    codec: str, options: dict[str, str], decoder: Backend, tmp_path: Path
) -> None:
    """A cluster is lost in the middle of a GOP: decoders show the frames behind it without a word, and wrong."""
    whole = _video(tmp_path / "whole.mkv", 150, codec=codec, options=options, gop=48)
    run_ffmpeg("-i", whole, "-c", "copy", "-cluster_time_limit", 600, tmp_path / "clusters.mkv")
    path = tmp_path / "holed.mkv"
    path.write_bytes(_without_cluster((tmp_path / "clusters.mkv").read_bytes(), 4))  # around frame 64
    facts = probe(path)
    first, second = facts.segments
    assert (first.first, facts.duration) == (0, pytest.approx(6.0, abs=0.002))
    assert second.start == pytest.approx(96 / 25, abs=0.002), "the next key frame"
    for config in ({}, {"frame_rate": 25.0}):
        spans = _plan(facts, num_frames=8, **config)
        starts = [round(span.start_time * 25) for span in spans]
        assert starts[: first.end // 8] == list(range(0, first.end - 7, 8)) and starts[-6:] == list(range(96, 143, 8))
        assert _numbers(path, spans, decoder) == [list(range(start, start + 8)) for start in starts]


_X264 = {"preset": "veryfast", "qp": "12"}


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize(
    ("name", "how", "sound"),
    [
        ("a.mkv", "bframes=0", range(28)),
        ("a.flv", "bframes=0", range(28)),
        ("a.ts", "bframes=0", range(28)),
        # Stored are 25 28 26 27 31 29 30: 31 is lost, which 29 and 30 need, that are shown before it.
        ("a.mkv", "bframes=2:b-adapt=0:lost=29", range(29)),
    ],
)
def test_what_needs_one_lost_packet_is_in_no_clip(
    name: str, how: str, sound: range, decoder: Backend, tmp_path: Path
) -> None:
    """A gap of two intervals, as a hold makes it: decoders show the frames behind it without a word, and wrong."""
    how, _, lost = how.partition(":lost=")
    options = _X264 | {"x264-params": f"{how}:keyint=25:min-keyint=25:scenecut=0"}
    whole = _video(tmp_path / "whole.mp4", 75, options=options, gop=25)
    path = _remux(whole, tmp_path / name, lost=range(at := int(lost or 28), at + 1))
    facts = probe(path)
    assert facts.frames == 74
    for config in ({}, {"frame_rate": 25.0}):
        spans = _plan(facts, num_frames=1, **config)
        assert [round(span.start_time * 25) for span in spans] == [*sound, *range(50, 75)]
        assert _numbers(path, spans, decoder) == [[number] for number in (*sound, *range(50, 75))]


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.ts"])
@pytest.mark.parametrize("how", ["bframes=0", "bframes=2:b-adapt=0:b-pyramid=none"])
def test_a_frame_that_none_needs_and_holds_lose_nothing(how: str, name: str, tmp_path: Path) -> None:
    """Every seventh frame is held for 80 ms."""
    stamps = [40 * (number + number // 7) for number in range(60)]
    options = _X264 | {"x264-params": f"{how}:keyint=25:min-keyint=25:scenecut=0"}
    path = _video(tmp_path / "whole.mkv", 60, options=options, gop=25, stamps=stamps)
    copy = _remux(path, tmp_path / name, lost=range(0))
    facts = probe(copy)
    assert (facts.frames, facts.segments) == (60, ())
    assert _numbers(copy, _plan(facts, num_frames=60)) == [list(range(60))]
    if "bframes=2" in how:  # stored as 0 3 1 2 6 4 5 9 7 8 12
        facts = probe(_remux(copy, tmp_path / f"lost-{name}", lost=range(8, 9)))
        assert (facts.frames, facts.segments) == (59, ())


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.flv", "fragments.mp4"])
def test_lost_packets_are_a_cut_in_every_container(name: str, tmp_path: Path) -> None:
    options = {"preset": "veryfast", "x264-params": "bframes=2:keyint=10:min-keyint=10:scenecut=0:open-gop=0"}
    whole = _video(tmp_path / "whole.mp4", 90, options=options)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if name.endswith("mp4") else None
    if fragments:
        path = tmp_path / name
        made = _remux(whole, tmp_path / "all.mp4", lost=range(0), options=fragments).read_bytes()
        places = [place - 4 for place in range(len(made)) if made.startswith(b"moof", place)]
        path.write_bytes(made[: places[3]] + made[places[5] :])  # two fragments of 10 frames
    else:
        path = _remux(whole, tmp_path / name, lost=range(30, 50))
    facts = probe(path)
    assert (facts.frames, [(s.first, s.end) for s in facts.segments]) == (70, [(0, 30), (30, 70)])
    assert facts.segments[1].start == pytest.approx(2.0, abs=0.002)
    for config in ({}, {"frame_rate": 25.0}):
        clips = _numbers(path, _plan(facts, num_frames=10, **config))
        assert clips == [list(range(s, s + 10)) for s in (0, 10, 20, 50, 60, 70, 80)]


def _sample_deltas(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Where an MP4's only `stts` box has its entries, and these: how many samples, how long each."""
    at = data.index(b"stts") + 8
    count = int.from_bytes(data[at : at + 4])
    entries = [data[at + 4 + 8 * i : at + 12 + 8 * i] for i in range(count)]
    return at + 4, [(int.from_bytes(entry[:4]), int.from_bytes(entry[4:])) for entry in entries]


def _set_deltas(path: Path, change: Callable[[list[tuple[int, int]]], list[tuple[int, int]]]) -> None:
    data = bytearray(path.read_bytes())
    at, entries = _sample_deltas(data)
    changed = b"".join(count.to_bytes(4) + delta.to_bytes(4) for count, delta in change(entries))
    data[at : at + len(changed)] = changed
    path.write_bytes(data)


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_repeated_stamp_and_a_hold(name: str, decoder: Backend, tmp_path: Path) -> None:
    """Two frames at 0.12 s, and 0.4 s after frame 9: a hold in a video of variable rate, not a hole."""
    stamps = [0, 40, 80, 120, 120, *range(200, 361, 40), *range(760, 1121, 40)]
    if name == "a.mkv":
        path = _video(tmp_path / name, 20, stamps=stamps)
    else:  # no muxer writes a sample that lasts no time
        options = {"preset": "veryfast", "bf": "0"}
        path = _video(tmp_path / name, 20, stamps=[*stamps[:4], 121, *stamps[5:]], options=options)
        tick = min(delta for _, delta in _sample_deltas(path.read_bytes())[1])
        lengths = {tick: 0, 79 * tick: 80 * tick}
        _set_deltas(path, lambda entries: [(count, lengths.get(delta, delta)) for count, delta in entries])
    facts = probe(path)
    assert (facts.frames, facts.segments) == (20, ())
    spans = _plan(facts, num_frames=8, frame_rate=10.0)
    assert _numbers(path, spans, decoder) == [[0, 2, 5, 7, 9, 9, 9, 9]]
    assert list(facts.times) == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-4)
    strided = _plan(facts, num_frames=5, frame_stride=2)
    assert [span.start_time for span in strided] == pytest.approx([0.0, 0.76])
    assert [span.end_time for span in strided] == pytest.approx([0.36, 1.12])
    assert _numbers(path, strided, decoder) == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]


def test_a_long_hold_of_mp4_is_none_of_matroska(tmp_path: Path) -> None:
    """A frame shown for 2 s: MP4 says so in its sample table; in Matroska nothing tells it from lost frames."""
    stamps = [*range(0, 400, 40), *range(2400, 2800, 40)]
    for name, cut in (("a.mp4", False), ("a.mkv", True)):
        path = _video(tmp_path / name, 20, stamps=stamps)
        facts = probe(path)
        assert (len(facts.segments) == 2) == cut
        found = _numbers(path, _plan(facts, num_frames=5, frame_rate=25.0))
        assert found[:2] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] and found[-1] == [15, 16, 17, 18, 19]
        assert ([9] * 5 in found) != cut


def test_holds_that_are_usual_are_no_holes(tmp_path: Path) -> None:
    """Slides of a second and a screen recording that often stands still."""
    slides = _video(tmp_path / "slides.mkv", 12, stamps=[1000 * i for i in range(12)])
    assert probe(slides).segments == ()
    stamps = [40 * i + 900 * (i // 5) for i in range(60)]
    assert probe(_video(tmp_path / "screen.mkv", 60, stamps=stamps)).segments == ()


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("second", [0.0, 3.0, 400.0, WRAP - 20])
def test_transport_streams_joined_with_cat(second: float, decoder: Backend, tmp_path: Path) -> None:
    """The clock goes back, or far ahead: two stretches, the second of which follows the first."""
    data = b""
    for number, at in enumerate((10.0, 10.0 + second)):
        plain = _video(tmp_path / f"{number}.mp4", 40 + 10 * number, gop=10)
        run_ffmpeg("-i", plain, "-c", "copy", "-muxdelay", 0, "-output_ts_offset", at, tmp_path / f"{number}.ts")
        data += (tmp_path / f"{number}.ts").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(data)
    facts = probe(path)
    assert facts.frames == 90
    if second == 3.0:  # lost time is kept where the clock is the same
        assert [s.start for s in facts.segments] == [0.0, pytest.approx(3.0, abs=0.001)]
    else:
        assert [s.start for s in facts.segments] == [0.0, pytest.approx(1.6, abs=0.001)]
    numbered = [*range(40), *range(50)]
    for config in ({}, {"frame_rate": 25.0}):
        spans = _plan(facts, num_frames=8, **config)
        assert [round(span.start_time * 25) for span in spans[:5]] == [0, 8, 16, 24, 32]
        later = round(facts.segments[1].start * 25)
        assert [round(span.start_time * 25) - later for span in spans[5:]] == [0, 8, 16, 24, 32, 40]
        firsts = [*range(0, 40, 8), *range(40, 88, 8)]
        found = dict(decode_clips(path, facts, spans, resolution=SIDE, decoder=decoder))
        for i, first in enumerate(firsts):
            clip = found[i]
            if isinstance(clip, VideoError):  # the demuxer calls the last packet before the seam damaged
                assert first + 8 == 40 and clip.reason == "corrupt"
            else:
                assert numbers(clip) == numbered[first : first + 8]


def _varied(path: Path, count: int, codec: str) -> Path:
    """At 40 ms a frame, with a time base of 1 ms and no declared rate."""
    return _video(path, count, codec=codec, stamps=[40 * number for number in range(count)])


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "a.ts", "a.mkv"])
def test_the_last_frame_lasts_as_long_as_the_one_before(name: str, tmp_path: Path) -> None:
    """Its packet has no duration (in Matroska one of 1 ms, as every frame's)."""
    path = _varied(tmp_path / name, 6, {"a.flv": "flv", "a.wmv": "wmv2"}.get(name, "libx264"))
    with av.open(str(path)) as container:
        assert max(packet.duration or 0 for packet in container.demux(video=0)) * container.streams[0].time_base < 0.002
    facts = probe(path)
    assert (facts.frames, facts.duration, facts.fps) == (6, pytest.approx(0.24, abs=1e-3), pytest.approx(25, rel=0.01))
    assert len(_plan(facts, num_frames=42, frame_rate=175.0, max_clips_per_video=9)) == 1, "0.24 s hold 42 samples"
    assert len(_plan(facts, num_frames=1, frame_rate=25.0)) == 6
    assert _numbers(path, _plan(facts, num_frames=6, frame_rate=25.0)) == [[0, 1, 2, 3, 4, 5]]


def test_last_durations_by_hand() -> None:
    """The packet's own, the interval before, 1 / rate; never the hole before it, never an hour."""
    assert make_timeline(_stamps([0, 40, 80], 30), [], 1e-3, 40.0).duration == pytest.approx(0.11)
    assert make_timeline(_stamps([0, 40, 80], 0), [], 1e-3, 50.0).duration == pytest.approx(0.12)
    assert make_timeline(_stamps([7], 0), [], 1e-3, 50.0).duration == pytest.approx(0.05)
    assert make_timeline(_stamps([0, 40, 80], [40, 40, 3_600_000]), [], 1e-3, 40.0).duration == pytest.approx(10.08)
    broken = make_timeline(_stamps([*range(0, 1000, 40), 2500, *range(4000, 5000, 40)], 0), [], 1e-3, 40.0)
    assert [(s.first, s.end, s.stop) for s in broken.stretches] == [(0, 25, 1000), (25, 26, 2540), (26, 51, 5000)]


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_an_edit_that_begins_inside_a_frame(name: str, decoder: Backend, tmp_path: Path) -> None:
    """`-ss 0.61 -c copy`: 138 whole frames from number 16 on, 5.52 s; the header says 5.55."""
    plain = _video(tmp_path / "plain.mp4", 154)
    path = tmp_path / name
    run_ffmpeg("-ss", 0.61, "-i", plain, "-c", "copy", path)
    facts = probe(path)
    assert (facts.frames, facts.duration, facts.times) == (138, pytest.approx(5.52), ())
    spans = _plan(facts, num_frames=6, frame_rate=12.5, windows="centre")
    assert [span.start_time for span in spans] == [pytest.approx((5.52 - 0.48) / 2)]
    assert _numbers(path, _plan(facts, num_frames=138, frame_rate=25.0), decoder) == [list(range(16, 154))]
    with pytest.raises(VideoError, match="too_short"):
        _plan(facts, num_frames=139, frame_rate=25.0)
    last = _plan(facts, num_frames=1, frame_rate=25.0, max_clips_per_video=2, pick="spread")[-1]
    assert _numbers(path, [last], decoder) == [[153]]


def _shorten(data: bytearray, seconds: float) -> None:
    """Writes a length into the movie's and the track's headers of an MP4."""
    for name in (b"mvhd", b"mdhd"):
        at = data.index(name) + 4
        data[at + 16 : at + 20] = round(seconds * int.from_bytes(data[at + 12 : at + 16])).to_bytes(4)


@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_header_that_is_short(decoder: Backend, tmp_path: Path) -> None:
    """154 frames to 6.16 s, and 1.2 s in the header."""
    path = _video(tmp_path / "a.mp4", 154, container_options={"use_editlist": "0"})
    data = bytearray(path.read_bytes())
    _shorten(data, 1.2)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert (container.duration or 0) / av.time_base == pytest.approx(1.2)
    facts = probe(path)
    assert (facts.frames, facts.duration) == (154, pytest.approx(6.16))
    spans = _plan(facts, num_frames=8, frame_rate=10.0)
    wanted = [[start + step for step in (0, 2, 5, 7, 10, 12, 15, 17)] for start in range(0, 140, 20)]
    assert _numbers(path, spans, decoder) == wanted


def test_an_avi_with_reordered_frames_begins_with_none_that_is_held(tmp_path: Path) -> None:
    """FFmpeg's guesses for MPEG-1 with B-frames in AVI are 0 2 3 4 ...; by rate, too, every frame is its own."""
    path = write_video(tmp_path / "b.avi", 24, codec="mpeg1video", options={"bf": "2", "qscale": "2"}, gop=12)
    assert [round(25 * second, 3) for second in read_timeline(path, 0).seconds] == list(range(24))
