"""Decodes chosen frames of a video with the ffmpeg program, through a pipe: the second opinion beside PyAV.

It gives the same frames, and every one is identified by the time stamp that ffmpeg says it has: the container's, or,
where those do not tell the frames apart, the number of its packet, which ffmpeg is made to put there. Frames of raw
streams, whose time stamps ffmpeg makes itself, are counted. The first error ends a run (`-xerror`; without it ffmpeg
ends with exit code 0 on files that it could not decode, and conceals what is missing): then PyAV decodes the stream and
says which frames are sound, and only these are taken from a second run that goes on behind errors. Long stretches
without a wanted frame are skipped in containers with an index: ffmpeg starts anew at a key frame behind them.

The pipe carries frames of one kind. Where their size, format or colours change within a file (parts joined with cat),
the program sets its filters up anew, which is noticed; from there on the frames are PyAV's.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vtok.video import frames_pyav
from vtok.video.container import open_video, set_up
from vtok.video.errors import VideoError
from vtok.video.ffmpeg_run import (
    ChangeError,
    DoubtError,
    Job,
    Run,
    Source,
    Start,
    cuda_problem,
    numbers_packets,
)
from vtok.video.frames_pyav import Indexed, read_found
from vtok.video.geometry import Geometry
from vtok.video.piped import PipedFrames, Stored
from vtok.video.probe import first_frame
from vtok.video.reading import LOST, Found
from vtok.video.timeline import Timeline

Hwaccel = Literal["none", "cuda"]

_SILENT = {"ffv1"}  # decoders that end with no error on damage, so that somebody else must check: PyAV decodes it here

_MIN_JUMP = 150  # frames that a new start must save: the program needs 15 to 60 ms to start


def read_frames(
    path: str | Path,
    stream_index: int,
    wanted: Sequence[int],
    geometry: Geometry,
    timeline: Timeline,
    hwaccel: Hwaccel = "none",
) -> Iterator[Indexed]:
    """Yields `(index, frame)` for the wanted frames in order; see `vtok.video.frames_pyav.read_frames`.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        wanted: ascending frame indices in presentation order.
        geometry: what to do to every frame.
        timeline: as far as the last wanted frame; without time stamps frames are counted.
        hwaccel: `cuda` decodes with NVDEC where it can be had, else on the CPU (`cuda_problem` says why).

    Raises:
        VideoError: nothing after the last frame yielded can be had.
        VtokError: there is no ffmpeg program.
    """
    codec, stored = _first(path, stream_index)
    if codec in _SILENT:
        yield from frames_pyav.read_frames(path, stream_index, wanted, geometry, timeline)
        return
    job = Job(path, stream_index, geometry, PipedFrames(geometry, stored), timeline, codec, stored)
    there = wanted[: bisect.bisect_left(wanted, timeline.frames)]
    done = 0
    try:
        for item in _piped(job, there, cuda=hwaccel == "cuda" and cuda_problem() is None):
            yield item
            done += 1
    except ChangeError:
        yield from frames_pyav.read_frames(path, stream_index, there[done:], geometry, timeline)
    if len(there) < len(wanted):
        raise VideoError(
            "missing_frames", f"the video ends after {timeline.frames} frames, {wanted[-1] + 1} are needed"
        )


def _piped(job: Job, wanted: Sequence[int], *, cuda: bool) -> Iterator[Indexed]:
    """The wanted frames from the program, as far as they are of one kind.

    Raises:
        VideoError: see `read_frames`.
        ChangeError: they are not.
    """
    source, done = _told(job.timeline), 0
    if source is not None:
        try:
            for item in _trust(job, source, wanted, cuda=cuda):
                yield item
                done += 1
            return
        except DoubtError:
            pass
    yield from _guided(job, wanted[done:])


def _told(timeline: Timeline) -> Source | None:
    """The program's frames as the packets tell; None where it must be seen first which frames come."""
    shown = timeline.shown
    if timeline.headless or shown.doubtful:
        return None
    ranks = [rank for rank in range(timeline.frames) if rank not in shown.repeats]
    if timeline.pts and shown.rising:
        return Source(ranks, [timeline.pts[rank] for rank in ranks], "pts")
    if shown.places and not shown.timeless and numbers_packets():
        return Source(ranks, [shown.places[rank] for rank in ranks], "pts", numbered=True)
    return None


def _seen(timeline: Timeline, came: Sequence[Found]) -> Source:
    """The program's frames, of which it is known that they come."""
    ranks = [found.number for found in came]
    if timeline.shown.timeless or not numbers_packets():
        return Source(ranks, range(len(ranks)), "n")
    return Source(ranks, [found.packet for found in came], "pts", numbered=True)


def _trust(job: Job, source: Source, wanted: Sequence[int], *, cuda: bool) -> Iterator[Indexed]:
    """The wanted frames of a sound file.

    Raises:
        DoubtError: it is not.
        ChangeError: its frames are not of one kind.
    """
    segments = list(_segments(wanted, job.timeline, source))
    _compare(job, [start for start, _ in segments if start.seconds is not None])
    for start, segment in segments:
        positions = _positions(source, segment)
        run = Run(job, source, sorted(set(positions)), start)
        begun = False
        if cuda:
            try:
                for item in _expanded(run.frames(cuda=True), positions, segment):
                    begun = True
                    yield item
                continue
            except (VideoError, DoubtError):
                if begun:
                    raise
        yield from _expanded(run.frames(cuda=False), positions, segment)


def _positions(source: Source, wanted: Sequence[int]) -> list[int]:
    """Where the frames lie among those that come; a frame that repeats the one before lies where that one does."""
    found = [bisect.bisect_right(source.ranks, index) - 1 for index in wanted]
    if found and found[0] < 0:
        raise DoubtError
    return found


def _expanded(
    frames: Iterator[tuple[int, np.ndarray]], positions: Sequence[int], wanted: Sequence[int]
) -> Iterator[Indexed]:
    """Every wanted frame, by its index.

    Raises:
        DoubtError: one does not come.
    """
    came, frame = next(frames, (-1, None))
    for index, position in zip(wanted, positions, strict=True):
        if came < position:
            came, frame = next(frames, (-1, None))
        if came != position or frame is None:
            raise DoubtError
        yield index, frame


def _guided(job: Job, wanted: Sequence[int]) -> Iterator[Indexed]:
    """The wanted frames of a file that is damaged, or whose frames the program's count alone does not tell.

    PyAV decodes the stream first and says which frames come, and which are sound. Only these are taken.

    Raises:
        VideoError: see `read_frames`.
        ChangeError: the frames are not of one kind; none has been yielded.
    """
    if not wanted:
        return
    came: list[Found] = []
    problems: dict[int, str] = {}
    at, failure = 0, VideoError("missing_frames", "")
    try:
        for found in read_found(job.path, job.stream_index):
            at = found.number + 1
            if found.frame is not None and not found.repeat:
                if Stored.of(found.frame) != job.stored:
                    raise ChangeError
                came.append(found._replace(frame=None))
            if found.problem is not None:
                problems[found.number] = found.problem
            if at > wanted[-1]:
                break
        else:
            failure = VideoError("missing_frames", f"the video ends after {at} frames, {wanted[-1] + 1} are needed")
    except VideoError as error:
        failure = error
    sound = [index for index in wanted if index < at and index not in problems]
    source = _seen(job.timeline, came)
    positions = _positions(source, sound)
    run = Run(job, source, sorted(set(positions)), Start(0, None), strict=False)
    places, frames = dict(zip(sound, positions, strict=True)), run.frames(cuda=False)
    position, frame = -1, None
    for index in wanted:
        if index >= at:
            raise failure
        if index in problems:
            yield index, VideoError("corrupt", problems[index])
            continue
        while position < places[index]:
            position, frame = next(frames, (len(source.ranks), None))
        if position == places[index] and frame is not None:
            yield index, frame
        else:
            yield index, VideoError("corrupt", run.said or LOST)


def _first(path: str | Path, stream_index: int) -> tuple[str, Stored]:
    """The codec, and what the first frame is like."""
    with open_video(path) as container:
        stream = _stream(container, stream_index)
        return stream.codec.canonical_name, Stored.of(first_frame(container, stream))


def _compare(job: Job, starts: Sequence[Start]) -> None:
    """Looks at the key frames where the program will start anew.

    Raises:
        ChangeError: one is unlike the first frame, or cannot be had.
    """
    if not starts:
        return
    with open_video(job.path) as container:
        stream = _stream(container, job.stream_index)
        for start in starts:
            try:
                container.seek(job.timeline.pts[start.rank], stream=stream)
                frame = first_frame(container, stream)
            except (VideoError, av.error.FFmpegError):
                raise ChangeError from None
            if Stored.of(frame) != job.stored:
                raise ChangeError


def _stream(container: InputContainer, stream_index: int) -> VideoStream:
    stream = container.streams[stream_index]
    if not isinstance(stream, VideoStream):
        raise VideoError("changed", f"stream {stream_index} is no video")
    set_up(stream)
    return stream


def _segments(wanted: Sequence[int], timeline: Timeline, source: Source) -> Iterator[tuple[Start, Sequence[int]]]:
    """Cuts the wanted frames where it pays to start anew, at a key frame, in containers that lead there."""
    begin, start = 0, Start(0, None)
    keys = timeline.keys if timeline.shown.indexed and not source.numbered and source.variable == "pts" else []
    for position, index in enumerate(wanted):
        at = wanted[position - 1] + 1 if position else 0
        before = bisect.bisect_right(keys, index) - 1
        if before >= 0 and keys[before] - at >= _MIN_JUMP and timeline.pts[keys[before]] >= 0:
            if begin < position:
                yield start, wanted[begin:position]
            key = keys[before]
            begin, start = position, Start(key, timeline.pts[key] * timeline.tick)
    if begin < len(wanted):
        yield start, wanted[begin:]
