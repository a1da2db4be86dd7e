"""The model of time: stamps of any sign, ties, holes, clocks that start again. Frames say their own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from schemas.config.data import DataConfig
from tests.video.making import numbers, run_ffmpeg, write_video
from vtok.video.clips import ClipSpan, plan_clips
from vtok.video.clock import Stamp
from vtok.video.decode import decode_clips
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
    assert timeline.stretches == [Stretch(0, 4, 3, 4), Stretch(4, 6, 3, 35), Stretch(6, 8, 38, 37)]
    assert timeline.segments[0] == Segment(0, 4, 0.0, 4.0)
    assert 34.99 < timeline.segments[1].stop < 35.0 == timeline.segments[2].start
    assert (timeline.duration, timeline.keys, timeline.frames) == (37.0, [0, 4], 8)


def test_the_limited_timeline_has_the_same_times(tmp_path: Path) -> None:
    path = _video(tmp_path / "a.mkv", 300)
    whole, part = read_timeline(path, 0), read_timeline(path, 0, frames=100)
    assert 130 < part.frames < 300
    assert (part.pts[:130], part.times[:130]) == (whole.pts[:130], whole.times[:130])
