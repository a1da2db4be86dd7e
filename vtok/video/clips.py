"""Plans which clips are cut out of a video, and names them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from vtok.video.errors import VideoError
from vtok.video.probe import StreamFacts

if TYPE_CHECKING:
    from schemas.config.data import DataConfig

_EPSILON = 1e-6  # seconds; far below a frame, far above the rounding of sums of seconds
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


class Segment(NamedTuple):
    """A stretch of a video that clips are cut from, a shot for example.

    Attributes:
        first: index of its first frame.
        end: index after its last frame.
        start: seconds from the first frame of the video at which its first frame is displayed.
        stop: seconds at which its last frame ends.
    """

    first: int
    end: int
    start: float
    stop: float


def plan_clips(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None = None,
    shots: Sequence[Segment] | None = None,
) -> list[ClipSpan]:
    """`plan_windows`, of which `limit_clips` keeps `max_clips_per_video`.

    Raises:
        VideoError: too_short for one clip.
    """
    return limit_clips(plan_windows(facts, config, part, shots), config)


def plan_windows(
    facts: StreamFacts,
    config: DataConfig,
    part: tuple[float, float] | None = None,
    shots: Sequence[Segment] | None = None,
) -> list[ClipSpan]:
    """Windows of `num_frames` sampled frames, in the order of their starts.

    `windows: all` puts their starts `clip_stride` sampled frames apart, `first` takes the first of these, `centre` one
    in the middle. A remainder that is too short for a whole clip is left out: all clips of a dataset are equally long,
    because shards, tokenizers and priors work on batches of one shape.

    Args:
        facts: of the video.
        config: the plan.
        part: (start, end) in seconds of the part of the video to cut clips from: frame i belongs to it if
            start <= i / fps < end. None: all of it.
        shots: stretches that are planned apart, so that no window straddles two; None: the video is one.

    Raises:
        VideoError: too_short for one clip.
    """
    segments = [_cut(shot, facts, part) for shot in shots or [Segment(0, facts.frames, 0.0, facts.duration)]]
    rate = config.frame_rate
    spans = [
        span
        for segment in segments
        for span in (_by_rate(segment, config, rate) if rate else _by_stride(segment, config, facts.fps))
    ]
    if not spans:
        raise VideoError("too_short", _shortage(segments, config))
    return spans


def limit_clips(spans: Sequence[ClipSpan], config: DataConfig) -> list[ClipSpan]:
    """At most `max_clips_per_video` of a video's clips: the first ones, or, with `pick: spread`, from first to last."""
    most = config.max_clips_per_video or len(spans)
    if len(spans) <= most or config.pick == "first":
        return list(spans[:most])
    last = len(spans) - 1
    return [spans[number * last // (most - 1)] for number in range(most)] if most > 1 else [spans[last // 2]]


def _cut(segment: Segment, facts: StreamFacts, part: tuple[float, float] | None) -> Segment:
    """What a segment shares with a part of the video."""
    if part is None:
        return segment
    first, end = (max(0, math.ceil(time * facts.fps - _EPSILON)) for time in part)
    return Segment(
        max(segment.first, first), min(segment.end, end), max(segment.start, part[0]), min(segment.stop, part[1])
    )


def _by_stride(segment: Segment, config: DataConfig, fps: float) -> list[ClipSpan]:
    length, stride = config.num_frames, config.frame_stride or 1
    needed = (length - 1) * stride + 1
    slack = segment.end - segment.first - needed  # frames by which a window can be moved
    if slack < 0:
        return []
    hop = (config.clip_stride or length) * stride
    moves = {"all": range(0, slack + 1, hop), "first": range(1), "centre": range(slack // 2, slack // 2 + 1)}
    starts = [segment.first + move for move in moves[config.windows]]
    return [ClipSpan(start, stride, start / fps, (start + needed) / fps, None, length) for start in starts]


def _by_rate(segment: Segment, config: DataConfig, rate: float) -> list[ClipSpan]:
    length, (_, _, first, stop) = config.num_frames, segment
    last = stop - (length - 1) / rate - _EPSILON  # the last frame of the clip must still be displayed
    if last <= first:
        return []
    starts = [first]
    if config.windows == "centre":
        starts = [first + max(0.0, stop - first - length / rate) / 2]
    elif config.windows == "all":
        hop = config.clip_stride or length
        while (start := first + len(starts) * hop / rate) < last:
            starts.append(start)
    return [ClipSpan(None, None, start, min(start + length / rate, stop), rate, length) for start in starts]


def _shortage(segments: Sequence[Segment], config: DataConfig) -> str:
    """Why there is no window: the longest stretch, and what a clip needs."""
    among = f"the longest of {len(segments)} shots has " if len(segments) > 1 else ""
    intervals = config.num_frames - 1
    if config.frame_rate:
        longest = max(segment.stop - segment.start for segment in segments)
        return f"{among}{max(0.0, longest):.3f} s, one clip needs more than {intervals / config.frame_rate:.3f} s"
    frames = max(segment.end - segment.first for segment in segments)
    return f"{among}{max(0, frames)} frames, one clip needs {intervals * (config.frame_stride or 1) + 1}"


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
