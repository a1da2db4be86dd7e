"""Few clips of long videos: seek or read on, whichever decodes less. Counted in decoded packets, not in seconds."""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.config.data import DataConfig
from tests.video.making import numbers, write_video
from vtok.video import decode, ffmpeg_run, frames_ffmpeg, frames_pyav, reading
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.pictures import NOTHING_SHOWN
from vtok.video.probe import probe
from vtok.video.selecting import select
from vtok.video.timeline import Timeline, read_timeline

FRAMES, SIDE, LENGTH = 1500, 96, 16
_DELAY = 8  # frames that the decoder holds back when it is told to jump


@pytest.fixture(scope="module", params=[12, 60, 250])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    options = {"preset": "ultrafast", "bf": "2", "sc_threshold": "0"}
    return write_video(folder / "v.mp4", FRAMES, gop=request.param, size=(SIDE, SIDE), options=options)


def _spans(count: int, first: int = 0) -> list[ClipSpan]:
    starts = [first + i * (FRAMES - first) // count for i in range(count)]
    return [ClipSpan(s, 1, s / 25, (s + LENGTH) / 25, None, LENGTH) for s in starts]


class _Counter:
    """Counts the packets that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packets = 0
        true = reading.Reading._decode

        def counted(pass_: Any, *arguments: Any) -> Any:
            self.packets += 1
            return true(pass_, *arguments)

        monkeypatch.setattr(reading.Reading, "_decode", counted)

    def of(self, path: Path, spans: list[ClipSpan]) -> int:
        before = self.packets
        for index, clip in decode_clips(path, probe(path), spans, resolution=SIDE):
            assert numbers(clip) == list(range(spans[index].start_frame or 0, (spans[index].start_frame or 0) + LENGTH))
        return self.packets - before


@pytest.mark.parametrize("count", [1, 16, 40, 90])
def test_never_worse_than_the_better_of_the_two(count: int, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = _spans(count, first=7)
    ours = _Counter(monkeypatch).of(video, spans)
    keys = read_timeline(video, 0).keys
    starts = [span.start_frame or 0 for span in spans]
    one_pass = starts[-1] + LENGTH
    one_by_one = sum(start + LENGTH - keys[bisect.bisect_right(keys, start) - 1] for start in starts)
    assert ours <= one_pass + _DELAY
    assert ours <= one_by_one + count * (frames_pyav._MIN_JUMP + _DELAY)


def test_an_even_mix_jumps_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense beginning and one clip far behind."""
    path = write_video(tmp_path / "v.mp4", 600, gop=60, size=(SIDE, SIDE), options={"preset": "ultrafast"})
    spans = [ClipSpan(s, 1, s / 25, (s + LENGTH) / 25, None, LENGTH) for s in [*range(0, 320, LENGTH), 541]]
    assert _Counter(monkeypatch).of(path, spans) < 320 + 60 + 2 * _DELAY


def test_the_timeline_ends_behind_the_last_clip(video: Path) -> None:
    whole = read_timeline(video, 0)
    part = read_timeline(video, 0, frames=100)
    assert 100 < part.frames < 200
    assert part.pts[:101] == whole.pts[:101]
    by_time = read_timeline(video, 0, frames=0, seconds=4.0)
    assert 100 < by_time.frames < 200
    assert by_time.seconds[:101] == whole.seconds[:101]


def test_ffmpeg_starts_anew_where_it_pays(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[ffmpeg_run.Start] = []
    true = ffmpeg_run.Run._command

    def watch(run: Any, *arguments: Any, **options: Any) -> Any:
        begun.append(run.start)
        return true(run, *arguments, **options)

    monkeypatch.setattr(ffmpeg_run.Run, "_command", watch)
    spans = [*_spans(3, first=7), ClipSpan(None, None, 58.0, 59.0, 16.0, LENGTH)]
    by_ffmpeg = dict(decode_clips(video, probe(video), spans, resolution=SIDE, decoder="ffmpeg"))
    by_pyav = dict(decode_clips(video, probe(video), spans, resolution=SIDE))
    for index in range(len(spans)):
        np.testing.assert_array_equal(by_ffmpeg[index], by_pyav[index])
    assert numbers(by_ffmpeg[0]) == list(range(7, 23))
    assert [start.rank > 0 for start in begun] == [False, True, True, True]


def test_frames_between_key_frames_are_had_by_strides(video: Path) -> None:
    """Runs of equal steps, some with time stamps that are evenly spaced and some without."""
    for stride in (3, 7):
        span = ClipSpan(900, stride, 36.0, 40.0, None, LENGTH)
        (_, clip), *_ = decode_clips(video, probe(video), [span], resolution=SIDE, decoder="ffmpeg")
        assert numbers(clip) == list(range(900, 900 + stride * LENGTH, stride))
    pts = [0, 33, 67, 100, 133, 167, 200]
    assert select([0, 3, 6], pts, "pts") == ([0, 3, 6], "between(pts,0,200)*not(mod(pts-(0),100))")
    assert select([0, 2, 4], pts, "pts") == ([0, 1, 2, 3, 4], "between(pts,0,133)")
    assert select([1, 2, 5], pts, "pts").passing == [1, 2, 5]


def test_sections_begin_at_key_frames() -> None:
    shown = NOTHING_SHOWN._replace(rising=True, indexed=True)
    timeline = Timeline(list(range(0, 60000, 100)), list(range(0, 600, 60)), 600, [], [], 0.01, shown=shown)
    source = frames_ffmpeg._told(timeline)
    assert source is not None
    sections = list(frames_ffmpeg._segments([0, 1, 130, 400, 401, 599], timeline, source))
    assert [(start.rank, list(wanted)) for start, wanted in sections] == [(0, [0, 1, 130]), (360, [400, 401, 599])]
    assert next(frames_ffmpeg._segments([400], timeline, source))[0] == (360, 360.0)


def test_the_limit_of_the_config_is_the_one_of_the_code() -> None:
    from schemas.config.data import ShardsConfig

    assert ShardsConfig().max_frames == decode.MAX_FRAMES
    assert DataConfig(root=".").num_frames <= decode.MAX_FRAMES
