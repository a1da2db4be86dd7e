"""Plans which clips are cut out of a video, and names them."""

from __future__ import annotations

import hashlib
import json
import math
import re
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


def plan_clips(facts: StreamFacts, config: DataConfig, part: tuple[float, float] | None = None) -> list[ClipSpan]:
    """Windows of `num_frames` sampled frames whose starts are `clip_stride` sampled frames apart.

    A remainder that is too short for a whole clip is left out.

    Args:
        facts: of the video.
        config: the plan.
        part: (start, end) in seconds of the part of the video to cut clips from: frame i belongs to it if
            start <= i / fps < end. None: all of it.

    Raises:
        VideoError: too_short for one clip.
    """
    length, hop = config.num_frames, config.clip_stride or config.num_frames
    spans = _by_rate(facts, length, hop, config.frame_rate, part) if config.frame_rate else None
    if spans is None:
        spans = _by_stride(facts, length, hop, config.frame_stride or 1, part)
    return spans[: config.max_clips_per_video]


def _by_stride(
    facts: StreamFacts, length: int, hop: int, stride: int, part: tuple[float, float] | None
) -> list[ClipSpan]:
    first, end = 0, facts.frames
    if part is not None:
        first, end = (max(0, math.ceil(time * facts.fps - _EPSILON)) for time in part)
        end = min(end, facts.frames)
    needed = (length - 1) * stride + 1
    if end - first < needed:
        raise VideoError("too_short", f"{max(0, end - first)} frames, one clip needs {needed}")
    return [
        ClipSpan(start, stride, start / facts.fps, (start + needed) / facts.fps, None, length)
        for start in range(first, end - needed + 1, hop * stride)
    ]


def _by_rate(
    facts: StreamFacts, length: int, hop: int, rate: float, part: tuple[float, float] | None
) -> list[ClipSpan]:
    first, end = part or (0.0, facts.duration)
    end = min(end, facts.duration)
    last = end - (length - 1) / rate - _EPSILON  # the last frame of the clip must still be displayed
    if last <= first:
        raise VideoError("too_short", f"{end - first:.3f} s, one clip needs more than {(length - 1) / rate:.3f} s")
    starts: list[float] = []
    while (start := first + len(starts) * hop / rate) < last:
        starts.append(start)
    return [ClipSpan(None, None, start, min(start + length / rate, end), rate, length) for start in starts]


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
