from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config.data import DataConfig
from vtok.video.clips import ClipSpan, Segment, clip_id, limit_clips, plan_clips, plan_windows
from vtok.video.errors import VideoError
from vtok.video.probe import StreamFacts


def _facts(frames: int, fps: float = 25.0, duration: float | None = None) -> StreamFacts:
    return StreamFacts(0, "h264", fps, 64, 96, frames, True, duration or frames / fps, 0, False)


def _plan(frames: int, **config: Any) -> list[ClipSpan]:
    return plan_clips(_facts(frames), DataConfig(root=".", **config))


def test_windows_by_stride() -> None:
    spans = _plan(50, num_frames=16)
    assert [span.start_frame for span in spans] == [0, 16, 32]
    assert spans[1] == ClipSpan(16, 1, 16 / 25, 32 / 25, None, 16)


def test_the_last_frame_is_used() -> None:
    assert len(_plan(16, num_frames=16)) == 1
    assert len(_plan(31, num_frames=16, frame_stride=2)) == 1
    with pytest.raises(VideoError, match="30 frames, one clip needs 31"):
        _plan(30, num_frames=16, frame_stride=2)


def test_clip_stride_counts_sampled_frames() -> None:
    assert [s.start_frame for s in _plan(40, num_frames=4, frame_stride=3, clip_stride=2)] == [0, 6, 12, 18, 24, 30]


def test_max_clips() -> None:
    assert [s.start_frame for s in _plan(100, num_frames=10, max_clips_per_video=2)] == [0, 10]


def test_windows_by_rate() -> None:
    spans = _plan(50, num_frames=5, frame_rate=5.0)  # 2 s
    assert [(s.start_time, s.end_time, s.start_frame) for s in spans] == [(0.0, 1.0, None), (1.0, 2.0, None)]
    # 5 frames at 5 per second need a frame displayed at 0.8 s.
    assert len(plan_clips(_facts(25, duration=0.81), DataConfig(root=".", num_frames=5, frame_rate=5.0))) == 1
    with pytest.raises(VideoError) as caught:
        plan_clips(_facts(25, duration=0.8), DataConfig(root=".", num_frames=5, frame_rate=5.0))
    assert caught.value.reason == "too_short"


def test_every_clip_lies_inside() -> None:
    for frames in range(8, 60):
        for span in _plan(frames, num_frames=4, frame_stride=2, clip_stride=1):
            assert span.start_frame is not None
            assert span.start_frame + 3 * 2 < frames


def test_clip_ids() -> None:
    a, b = _plan(50, num_frames=16)[:2]
    name = clip_id("Class.x/v_Ball.Bounce_g01.avi", a)
    assert name == "v_Ball-Bounce_g01-f000000-" + name[-10:]
    assert name == clip_id("Class.x/v_Ball.Bounce_g01.avi", a)
    others = [
        clip_id("Class.x/v_Ball.Bounce_g01.avi", b),
        clip_id("Class.y/v_Ball.Bounce_g01.avi", a),
        clip_id("Class.x/v_Ball.Bounce_g01.avi", a._replace(frame_stride=2)),
        clip_id("Class.x/v_Ball.Bounce_g01.avi", a._replace(num_frames=8)),
    ]
    assert len({name, *others}) == 5
    odd = ["__x__/__y__.mp4", "a/b c\n.d.mp4", "漢字.mp4", "." * 9 + ".avi", "x" * 300 + ".mp4"]
    for source in odd:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,90}", clip_id(source, a)), source
    timed = ClipSpan(None, None, 1.5, 2.5, 8.0, 8)
    assert "-t00001500-" in clip_id("a.mp4", timed)
    assert clip_id("a.mp4", timed) != clip_id("a.mp4", timed._replace(frame_rate=9.0))


PLANS = st.fixed_dictionaries(
    {
        "num_frames": st.integers(1, 20),
        "frame_stride": st.integers(1, 5),
        "clip_stride": st.none() | st.integers(1, 30),
    }
)
quick = settings(derandomize=True, deadline=None, max_examples=150)


def _windows(facts: StreamFacts, config: DataConfig, shots: list[Segment] | None = None) -> list[ClipSpan]:
    try:
        return plan_windows(facts, config, None, shots)
    except VideoError as error:
        if error.reason != "too_short":
            raise
        return []


@quick
@given(PLANS, st.integers(1, 300), st.sampled_from([12.5, 25.0, 30000 / 1001]))
def test_windows_by_stride_in_general(plan: dict[str, Any], frames: int, fps: float) -> None:
    facts, config = _facts(frames, fps), DataConfig(root=".", **plan)
    length, stride = plan["num_frames"], plan["frame_stride"]
    hop, reach = (plan["clip_stride"] or length) * stride, (length - 1) * stride + 1
    spans = _windows(facts, config)
    assert len(spans) == (0 if frames < reach else (frames - reach) // hop + 1)
    assert [span.start_frame for span in spans] == [i * hop for i in range(len(spans))]
    used = [range(i * hop, i * hop + reach, stride) for i in range(len(spans))]
    assert all(frame < frames for chosen in used for frame in chosen)
    assert all(span.end_time <= facts.duration + 1e-9 for span in spans)
    if plan["clip_stride"] is None or plan["clip_stride"] >= length:
        taken = [frame for chosen in used for frame in chosen]
        assert len(taken) == len(set(taken)), "no frame is in two clips unless the recipe asks for it"
    assert spans == _windows(facts, config)
    first = _windows(facts, config.model_copy(update={"windows": "first"}))
    assert first == spans[:1]
    for span in _windows(facts, config.model_copy(update={"windows": "centre"})):
        assert span.start_frame is not None
        before, after = span.start_frame, frames - span.start_frame - reach
        assert 0 <= after - before <= 1


@quick
@given(
    st.integers(1, 20),
    st.none() | st.integers(1, 30),
    st.integers(1, 300),
    st.sampled_from([1.0, 7.5, 12.5, 24.0, 25.0, 60.0]),
)
def test_windows_by_rate_in_general(length: int, clip_stride: int | None, frames: int, rate: float) -> None:
    facts = _facts(frames)
    config = DataConfig(root=".", num_frames=length, clip_stride=clip_stride, frame_rate=rate)
    spans = _windows(facts, config)
    hop = (clip_stride or length) / rate
    for i, span in enumerate(spans):
        assert span.start_time == pytest.approx(i * hop)
        assert span.start_time + (length - 1) / rate < facts.duration, "its last frame is displayed"
        assert span.end_time <= facts.duration
    next_last = len(spans) * hop + (length - 1) / rate
    assert next_last >= facts.duration - 2e-6, "one more would not fit"
    assert len(_windows(facts, config.model_copy(update={"windows": "first"}))) == min(1, len(spans))
    for span in _windows(facts, config.model_copy(update={"windows": "centre"})):
        left, right = span.start_time, facts.duration - span.start_time - length / rate
        assert left == pytest.approx(max(0.0, right), abs=1e-9) or (left == 0 and right < 0)


@quick
@given(PLANS, st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from(["all", "first", "centre"]))
def test_shots_are_planned_apart(plan: dict[str, Any], lengths: list[int], windows: Any) -> None:
    ends = list(itertools.accumulate(lengths))
    shots = [Segment(end - size, end, (end - size) / 25, end / 25) for size, end in zip(lengths, ends, strict=True)]
    config = DataConfig(root=".", windows=windows, **plan)
    reach = (plan["num_frames"] - 1) * plan["frame_stride"] + 1
    spans = _windows(_facts(ends[-1]), config, shots)
    for span in spans:
        assert span.start_frame is not None
        assert any(shot.first <= span.start_frame and span.start_frame + reach <= shot.end for shot in shots)
    alone = sum(len(_windows(_facts(size), config)) for size in lengths)
    assert len(spans) == alone, "as many as if every shot were a video"


@quick
@given(st.integers(1, 60), st.integers(1, 20))
def test_limits(count: int, most: int) -> None:
    spans = [ClipSpan(i, 1, i / 25, (i + 1) / 25, None, 1) for i in range(count)]
    config = DataConfig(root=".", max_clips_per_video=most)
    assert limit_clips(spans, config) == spans[:most]
    spread = limit_clips(spans, config.model_copy(update={"pick": "spread"}))
    assert len(spread) == min(most, count) and spread == sorted(set(spread))
    if len(spread) > 1:
        assert (spread[0], spread[-1]) == (spans[0], spans[-1])
        gaps = [b.start_time - a.start_time for a, b in itertools.pairwise(spread)]
        assert max(gaps) - min(gaps) <= 1 / 25 + 1e-9, "evenly, to one window"


def test_spread_of_one_is_in_the_middle() -> None:
    assert [s.start_frame for s in _plan(50, num_frames=10, max_clips_per_video=1, pick="spread")] == [20]


def test_a_part_of_a_video_and_its_shots() -> None:
    shots = [Segment(0, 20, 0.0, 0.8), Segment(20, 60, 0.8, 2.4)]
    config = DataConfig(root=".", num_frames=5)
    spans = plan_windows(_facts(60), config, (0.4, 1.6), shots)
    assert [span.start_frame for span in spans] == [10, 15, 20, 25, 30, 35]
    with pytest.raises(VideoError, match="the longest of 2 shots has 20 frames, one clip needs 31"):
        plan_windows(_facts(60), DataConfig(root=".", num_frames=31), (0.4, 1.6), shots)


def test_shots_and_cuts_in_time_together() -> None:
    """A hole of 1 s after frame 24; a new shot at frame 40: three stretches, none of which a window leaves."""
    gaps = (Segment(0, 25, 0.0, 1.0), Segment(25, 60, 2.0, 3.4))
    times = [*(i / 25 for i in range(25)), *(2.0 + i / 25 for i in range(35))]
    facts = _facts(60, duration=3.4)._replace(segments=gaps, times=times)
    shots = [Segment(0, 40, 0.0, 2.6 - 6e-4), Segment(40, 60, 2.6, 3.4)]
    config = DataConfig(root=".", num_frames=10)
    for given_shots, starts in ((None, [0, 10, 25, 35, 45]), (shots, [0, 10, 25, 40, 50])):
        spans = plan_windows(facts, config, None, given_shots)
        assert [span.start_frame for span in spans] == starts
        assert [span.start_time for span in spans] == pytest.approx([times[start] for start in starts])
        assert all(span.end_time - span.start_time == pytest.approx(0.4, abs=1e-3) for span in spans)
    by_rate = plan_windows(facts, config.model_copy(update={"frame_rate": 25.0, "num_frames": 5}), (0.9, 2.9), shots)
    assert [span.start_time for span in by_rate] == pytest.approx([2.0, 2.2, 2.4, 2.6])
    with pytest.raises(VideoError, match="the longest of 2 stretches has 35 frames, one clip needs 36"):
        plan_windows(facts, DataConfig(root=".", num_frames=36))
