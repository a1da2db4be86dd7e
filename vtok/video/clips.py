"""Plans which clips are cut out of a video, and names them."""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from vtok.video.errors import VideoError
from vtok.video.probe import StreamFacts
from vtok.video.timeline import Segment

if TYPE_CHECKING:
    from schemas.config.data import DataConfig

_EPSILON = 1e-6  # seconds; far below a frame, far above the rounding of sums of seconds
MAX_CLIPS = 2_000_000
"""Clips that are planned of one video: a day of 25 frames a second, a clip from every frame on, has 2.16 million."""
_STEM = 48  # characters of the file's name in a clip_id


class ClipSpan(NamedTuple):
    """Which frames a clip is made of. Either by stride (`start_frame`, `frame_stride`) or by rate (`frame_rate`).

    Attributes:
        start_frame: index of the first source frame, in presentation order; None by rate.
        frame_stride: every n-th source frame; None by rate.
        start_time: seconds from the first frame of the video.
        end_time: seconds, where the clip's last frame ends.
        frame_rate: frames per second; frame i is the one displayed at start_time + i / frame_rate; None by stride.
        num_frames: frames in the clip.
    """

    start_frame: int | None
    frame_stride: int | None
    start_time: float
    end_time: float
    frame_rate: float | None
    num_frames: int


def plan_clips(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None = None,
    shots: Sequence[Segment] | None = None,
) -> list[ClipSpan]:
    """`plan_windows`, of which `max_clips_per_video` are kept: see `limit_clips`.

    Raises:
        VideoError: too_short for one clip, implausible for more than `MAX_CLIPS`.
    """
    return list(iter_clips(facts, config, part, shots))


def iter_clips(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None = None,
    shots: Sequence[Segment] | None = None,
) -> Iterator[ClipSpan]:
    """`plan_clips` one by one: two million of them need not be in memory. Raises at once what `plan_clips` raises."""
    rows = _rows(facts, config, part, shots)
    return _spans(rows, _kept(sum(row.windows for row in rows), config), facts, config)


def plan_windows(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None = None,
    shots: Sequence[Segment] | None = None,
) -> list[ClipSpan]:
    """Windows of `num_frames` sampled frames, in the order of their starts.

    `windows: all` puts their starts `clip_stride` sampled frames apart, `first` takes the first of these, `centre` one
    in the middle. A remainder that is too short for a whole clip is left out: all clips of a dataset are equally long,
    because shards, tokenizers and priors work on batches of one shape. No window reaches over a cut in time.

    Args:
        facts: of the video.
        config: the plan.
        part: (start, end) in seconds of the part of the video to cut clips from: a frame belongs to it if
            start <= its time < end. None: all of it.
        shots: stretches that are planned apart, so that no window straddles two; None: the video is one.

    Raises:
        VideoError: too_short for one clip, implausible for more than `MAX_CLIPS`.
    """
    rows = _rows(facts, config, part, shots)
    return list(_spans(rows, range(sum(row.windows for row in rows)), facts, config))


def limit_clips(spans: Sequence[ClipSpan], config: DataConfig) -> list[ClipSpan]:
    """At most `max_clips_per_video` of a video's clips: the first ones, or, with `pick: spread`, from first to last."""
    return [spans[number] for number in _kept(len(spans), config)]


def _kept(count: int, config: DataConfig) -> Sequence[int]:
    """Numbers of the clips that `max_clips_per_video` keeps."""
    most = config.max_clips_per_video or count
    if count <= most or config.pick == "first":
        return range(min(most, count))
    last = count - 1
    return [number * last // (most - 1) for number in range(most)] if most > 1 else [last // 2]


class _Row(NamedTuple):
    """Evenly spaced windows of one segment: starts and hop are frames by stride, seconds by rate."""

    segment: Segment
    first: float
    hop: float
    windows: int


def _rows(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None,
    shots: Sequence[Segment] | None,
) -> list[_Row]:
    segments: Sequence[Segment] = facts.segments or [Segment(0, facts.frames, 0.0, facts.duration)]
    if shots is not None:
        segments = _shared(segments, shots)
    if part is not None:
        segments = _shared(segments, [Segment(_frame_at(facts, part[0]), _frame_at(facts, part[1]), *part)])
    found = (_by_rate(segment, config) if config.frame_rate else _by_stride(segment, config) for segment in segments)
    rows = [row for row in found if row is not None]
    if not rows:
        raise VideoError("too_short", _shortage(segments, config, "stretches" if shots is None else "shots"))
    return rows


def _shared(some: Sequence[Segment], others: Sequence[Segment]) -> list[Segment]:
    """What two divisions of a video share, in order."""
    found: list[Segment] = []
    i = j = 0
    while i < len(some) and j < len(others):
        (first, end, start, stop), other = some[i], others[j]
        both = Segment(max(first, other.first), min(end, other.end), max(start, other.start), min(stop, other.stop))
        if both.first < both.end:
            found.append(both)
        i, j = (i + 1, j) if end <= other.end else (i, j + 1)
    return found


def _frame_at(facts: StreamFacts, time: float) -> int:
    """The first frame that is displayed at a time or later."""
    if facts.times:
        return bisect.bisect_left(facts.times, time - _EPSILON)
    return max(0, math.ceil(time * facts.fps - _EPSILON))


def _by_stride(segment: Segment, config: DataConfig) -> _Row | None:
    length, stride = config.num_frames, config.frame_stride or 1
    slack = segment.end - segment.first - _reach(config)  # frames by which a window can be moved
    if slack < 0:
        return None
    hop = (config.clip_stride or length) * stride
    if config.windows == "centre":
        return _Row(segment, segment.first + slack // 2, hop, 1)
    return _Row(segment, segment.first, hop, slack // hop + 1 if config.windows == "all" else 1)


def _reach(config: DataConfig) -> int:
    """Source frames from the first to the last of a clip."""
    return (config.num_frames - 1) * (config.frame_stride or 1) + 1


def _by_rate(segment: Segment, config: DataConfig) -> _Row | None:
    length, rate, (_, _, first, stop) = config.num_frames, config.frame_rate or 1.0, segment
    last = stop - (length - 1) / rate - _EPSILON  # the last frame of the clip must still be displayed
    if last <= first:
        return None
    hop, count = (config.clip_stride or length) / rate, 1
    if config.windows == "centre":
        first += max(0.0, stop - first - length / rate) / 2
    elif config.windows == "all":
        count = max(1, int((last - first) / hop))
        while first + count * hop < last:
            count += 1
        while count > 1 and first + (count - 1) * hop >= last:
            count -= 1
    return _Row(segment, first, hop, count)


def _spans(rows: Sequence[_Row], numbers: Sequence[int], facts: StreamFacts, config: DataConfig) -> Iterator[ClipSpan]:
    """The windows with these numbers, ascending, counted through all rows."""
    if len(numbers) > MAX_CLIPS:
        raise VideoError(
            "implausible",
            f"{len(numbers)} clips of {facts.frames} frames in {facts.duration:.3f} s, at most {MAX_CLIPS} are planned",
        )
    return _made(rows, numbers, facts, config)


def _made(rows: Sequence[_Row], numbers: Sequence[int], facts: StreamFacts, config: DataConfig) -> Iterator[ClipSpan]:
    make = _rate_span if config.frame_rate else _stride_span
    row, before = 0, 0  # windows in the rows before this one
    for number in numbers:
        while number >= before + rows[row].windows:
            before, row = before + rows[row].windows, row + 1
        yield make(rows[row], number - before, facts, config)


def _stride_span(row: _Row, number: int, facts: StreamFacts, config: DataConfig) -> ClipSpan:
    start = int(row.first) + number * int(row.hop)
    end = start + _reach(config)
    begins, ends = start / facts.fps, end / facts.fps
    if facts.times:
        begins, ends = facts.times[start], facts.times[end] if end < row.segment.end else row.segment.stop
    return ClipSpan(start, config.frame_stride or 1, begins, ends, None, config.num_frames)


def _rate_span(row: _Row, number: int, facts: StreamFacts, config: DataConfig) -> ClipSpan:
    start, rate = row.first + number * row.hop, config.frame_rate or 1.0
    end = min(start + config.num_frames / rate, row.segment.stop)
    return ClipSpan(None, None, start, end, rate, config.num_frames)


def _shortage(segments: Sequence[Segment], config: DataConfig, what: str) -> str:
    """Why there is no window: the longest stretch, and what a clip needs."""
    among = f"the longest of {len(segments)} {what} has " if len(segments) > 1 else ""
    if config.frame_rate:
        longest = max((segment.stop - segment.start for segment in segments), default=0.0)
        needed = (config.num_frames - 1) / config.frame_rate
        return f"{among}{max(0.0, longest):.3f} s, one clip needs more than {needed:.3f} s"
    frames = max((segment.end - segment.first for segment in segments), default=0)
    return f"{among}{max(0, frames)} frames, one clip needs {_reach(config)}"


def clip_id(source: str, span: ClipSpan) -> str:
    """A stable, readable name, fit for a WebDataset key and a file name: [A-Za-z0-9_-] only.

    Args:
        source: the video's path below the root, POSIX separators.
        span: the clip.

    Returns:
        e.g. `v_BallBounce_g01_c02-f000016-1f0c9a77e2`: name, first frame (or milliseconds, `t`), and 10 hex digits of
        a sha256 over the source and everything that says which frames are taken.
    """
    chosen = [source, span.start_frame, span.frame_stride, span.frame_rate, span.num_frames]
    if span.start_frame is None:
        chosen.append(round(span.start_time, 6))
        where = f"t{round(span.start_time * 1000):08d}"
    else:
        where = f"f{span.start_frame:06d}"
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(source).stem)[:_STEM].strip("_-") or "clip"
    digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:10]
    return f"{stem}-{where}-{digest}"
