from __future__ import annotations

import re
from typing import Any

import pytest

from schemas.config.data import DataConfig
from vtok.video.clips import ClipSpan, clip_id, plan_clips
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
