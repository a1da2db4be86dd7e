"""Cuts clips out of a video: one sequential decode pass serves all of them.

By stride, a clip's frames are exact frame indices in presentation order. By rate, frame i is the one that a player
displays at start_time + i / frame_rate, by its time stamp, so that variable frame rates come out right. No frame is
ever repeated or skipped to fill a gap: a clip that cannot be had whole is an error. Video codecs carry no checksums,
so flipped bits that still decode to something pass unnoticed; the sources' sha256 is what tells such files apart.

Deviation from the originals (VideoGPT, TATS, MeBT): they resample by floor(i * fps / rate), which drifts on variable
frame rates. Pixels that are not square are taken as if they were, as the originals do, unless one asks otherwise.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from schemas.errors import UsageError
from vtok.video import frames_ffmpeg, frames_pyav
from vtok.video.clips import ClipSpan
from vtok.video.errors import VideoError
from vtok.video.geometry import Box, Geometry, PixelAspect, Policy
from vtok.video.media.sequence import FrameSequence, read_sequence
from vtok.video.probe import StreamFacts, probe
from vtok.video.timeline import Timeline, read_timeline

MAX_PIXELS = 8192 * 8192
MAX_FRAMES = 10_000_000
_GAPS = 0.05  # look for key frames to jump to if at least this share of the frames up to the last wanted one
_GAP_FRAMES = 64  # and at least this many are not wanted; reading the packets first costs about 1 % of decoding them
_ROUNDING = 5e-4  # seconds; Matroska rounds time stamps to 1 ms

Clip = tuple[int, np.ndarray | VideoError]


def decode_clips(
    path: str | Path,
    facts: StreamFacts,
    spans: Sequence[ClipSpan],
    *,
    resolution: int,
    policy: Policy = "reference",
    decoder: Literal["pyav", "ffmpeg"] = "pyav",
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    bbox: Box | None = None,
    hwaccel: frames_ffmpeg.Hwaccel = "none",
    pixel_aspect: PixelAspect = "ignore",
) -> Iterator[Clip]:
    """Decodes clips of one video, in the order in which they end; memory holds the frames of unfinished clips only.

    Args:
        path: the video file.
        facts: of `probe`.
        spans: the clips.
        resolution: height and width of a clip, pixels.
        policy: `reference` (full-size RGB, then the originals' resize) or `fast` (libswscale's resize).
        decoder: `pyav` (FFmpeg's libraries) or `ffmpeg` (the program); both give the same frames.
        max_pixels: larger frames are refused.
        max_frames: clips that need a frame with this index or a higher one are refused.
        bbox: left, top, right, bottom of the part to use, stored pixels of the upright frame; None: all of it.
        hwaccel: with the decoder `ffmpeg`: `cuda` decodes with NVDEC where it can be had.
        pixel_aspect: whether pixels that are not square are taken as if they were, or resized to what is shown.

    Yields:
        `(index into spans, uint8 (t, r, r, 3))`, or `(index, VideoError)` for a clip that cannot be had whole; every
        span once.
    """
    geometry = Geometry(
        facts.rotation,
        resolution,
        policy,
        max_pixels,
        bbox,
        mirrored=bool(facts.mirrored),
        pixel_aspect=(facts.pixel_aspect or 1.0) if pixel_aspect == "apply" else 1.0,
    )
    order = sorted(range(len(spans)), key=lambda i: (spans[i].start_time, i))
    try:
        geometry.scaled_size(facts.height, facts.width)
        timeline = _timeline(path, facts, spans, max_frames) if decoder == "ffmpeg" or _is_useful(spans) else None
        seconds = timeline.seconds if timeline else []
        choices = {i: _frame_indices(spans[i], facts, timeline, seconds) for i in order}
    except VideoError as error:
        yield from ((i, error) for i in order)
        return
    for i, choice in choices.items():
        if not isinstance(choice, VideoError) and choice[-1] >= max_frames:
            choices[i] = VideoError("too_long", f"the clip needs frame {choice[-1]}, the limit is {max_frames} frames")
    failed = [(i, choice) for i, choice in choices.items() if isinstance(choice, VideoError)]
    chosen = {i: choice for i, choice in choices.items() if not isinstance(choice, VideoError)}
    users = Counter(itertools.chain.from_iterable(set(choice) for choice in chosen.values()))
    wanted = sorted(users)
    if decoder == "pyav" or not wanted:
        source = frames_pyav.read_frames(path, facts.stream, wanted, geometry, timeline)
    else:
        assert timeline is not None
        source = frames_ffmpeg.read_frames(path, facts.stream, wanted, geometry, timeline, hwaccel)
    yield from _assemble(source, chosen, users)
    yield from failed


def decode_sequence(
    sequence: FrameSequence,
    spans: Sequence[ClipSpan],
    *,
    resolution: int,
    policy: Policy = "reference",
    max_pixels: int = MAX_PIXELS,
    bbox: Box | None = None,
) -> Iterator[tuple[int, list[int], np.ndarray | VideoError]]:
    """`decode_clips` for frames that are had one by one; each clip with the indices of its frames."""
    geometry = Geometry(0, resolution, policy, max_pixels, bbox)
    choices = {i: _frame_indices(span, sequence.facts, None, []) for i, span in enumerate(spans)}
    failed = [(i, choice) for i, choice in choices.items() if isinstance(choice, VideoError)]
    chosen = {i: choice for i, choice in choices.items() if not isinstance(choice, VideoError)}
    users = Counter(itertools.chain.from_iterable(set(choice) for choice in chosen.values()))
    for i, clip in _assemble(read_sequence(sequence, sorted(users), geometry), chosen, users):
        yield i, chosen[i], clip
    for i, error in failed:
        yield i, [], error


def clip_indices(path: str | Path, facts: StreamFacts, spans: Sequence[ClipSpan]) -> list[list[int] | VideoError]:
    """The frames, counted from 0, that `decode_clips` makes each clip of."""
    by_rate = any(span.frame_rate is not None for span in spans)
    timeline = read_timeline(path, facts.stream) if by_rate else None
    seconds = timeline.seconds if timeline else []
    return [_frame_indices(span, facts, timeline, seconds) for span in spans]


def _assemble(
    source: Iterator[frames_pyav.Indexed], chosen: dict[int, list[int]], users: Counter[int]
) -> Iterator[Clip]:
    """Collects frames into clips; `users` counts the unfinished clips that need each frame."""
    waiting = sorted(chosen, key=lambda i: (chosen[i][-1], i))
    held: dict[int, np.ndarray | VideoError] = {}
    done = 0
    try:
        for index, frame in source:
            held[index] = frame
            while done < len(waiting) and chosen[waiting[done]][-1] <= index:
                number = waiting[done]
                done += 1
                yield number, _join(held, chosen[number])
                for used in set(chosen[number]):
                    users[used] -= 1
                    if not users[used]:
                        del held[used], users[used]
    except VideoError as error:
        yield from ((number, error) for number in waiting[done:])


def _join(held: dict[int, np.ndarray | VideoError], indices: list[int]) -> np.ndarray | VideoError:
    frames = []
    for index in indices:
        frame = held[index]
        if isinstance(frame, VideoError):
            return VideoError(frame.reason, f"frame {index}: {frame.detail}")
        frames.append(frame)
    return np.stack(frames)


def _is_useful(spans: Sequence[ClipSpan]) -> bool:
    """Whether to read the packets first: frames are chosen by time, or there is much to jump over."""
    if any(span.frame_rate is not None for span in spans):
        return True
    ranges = sorted(_frame_range(span) for span in spans)
    last = max((end for _, end in ranges), default=0)
    gaps, reached = 0, 0
    for start, end in ranges:
        gaps += max(0, start - reached)
        reached = max(reached, end)
    return gaps >= max(_GAP_FRAMES, _GAPS * last)


def _timeline(path: str | Path, facts: StreamFacts, spans: Sequence[ClipSpan], max_frames: int) -> Timeline:
    """The packets up to the last frame that the clips need."""
    frames = max((_frame_range(span)[1] for span in spans if span.frame_rate is None), default=0)
    times = [span.start_time + span.num_frames / span.frame_rate for span in spans if span.frame_rate is not None]
    return read_timeline(path, facts.stream, frames=min(frames, max_frames), seconds=max(times, default=0.0))


def _frame_range(span: ClipSpan) -> tuple[int, int]:
    start, stride = span.start_frame or 0, span.frame_stride or 1
    return start, start + (span.num_frames - 1) * stride + 1


def _frame_indices(
    span: ClipSpan, facts: StreamFacts, timeline: Timeline | None, seconds: list[float]
) -> list[int] | VideoError:
    """Which source frames a clip consists of."""
    if span.frame_rate is None:
        start, end = _frame_range(span)
        return list(range(start, end, span.frame_stride or 1))
    times = [span.start_time + i / span.frame_rate for i in range(span.num_frames)]
    if timeline is None or not timeline.times:
        # No time stamps: frames are evenly spaced.
        frames = timeline.frames if timeline else facts.frames
        indices = [int(time * facts.fps + 1e-6) for time in times]
        ended = indices[-1] >= frames
    else:
        # Time stamps are rounded to the tick: a frame counts as displayed up to half a tick before its stamp.
        early = min(timeline.tick / 2, _ROUNDING) + 1e-7
        indices = [max(0, bisect.bisect_right(seconds, time + early) - 1) for time in times]
        ended = times[-1] >= timeline.duration + early
    if ended:
        return VideoError("missing_frames", f"the clip needs a frame at {times[-1]:.3f} s, the video ends before")
    return indices


def read_video(
    path: str | Path,
    *,
    start: int = 0,
    num_frames: int | None = None,
    frame_stride: int = 1,
    resolution: int | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of a video file as RGB.

    Args:
        path: the file.
        start: index of the first frame.
        num_frames: how many frames to return; None: all up to the end (mind the memory: 6 MB a frame at 1080p).
        frame_stride: take every n-th frame.
        resolution: resize and centre-crop to this height and width, pixels; None: keep the size.

    Returns:
        uint8 (t, h, w, 3), upright, 0..255.

    Raises:
        VideoError: the file cannot be read, or ends before the last frame asked for.
        UsageError: negative or zero arguments.
    """
    if start < 0 or frame_stride < 1 or (num_frames is not None and num_frames < 1):
        raise UsageError("start must be >= 0, frame_stride and num_frames >= 1", at="read_video")
    facts = probe(path)
    geometry = Geometry(facts.rotation, resolution, "reference", MAX_PIXELS, mirrored=bool(facts.mirrored))
    # Without a count, frames are read until there are no more: the header's number may be wrong.
    stop = start + num_frames * frame_stride if num_frames is not None else 1 << 62
    frames = []
    try:
        for _, frame in frames_pyav.read_frames(path, facts.stream, range(start, stop, frame_stride), geometry):
            if isinstance(frame, VideoError):
                raise frame
            frames.append(frame)
    except VideoError as error:
        if error.reason != "missing_frames" or num_frames is not None or not frames:
            raise VideoError(error.reason, error.detail, at=str(path)) from None
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError("corrupt", "the size of the frames changes within the video", at=str(path))
    return np.stack(frames)
