"""Reads the facts of a video: which stream, how large, how many frames, how fast, turned by how much.

Headers are read, one frame is decoded (only frames carry the rotation and their true size), and packets are counted
where the container has no trustworthy count (Matroska and WebM have none at all).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtok.video.container import choose_stream, describe, open_video, set_up
from vtok.video.errors import VideoError
from vtok.video.indexed import indexed_timeline
from vtok.video.orientation import orientation
from vtok.video.pictures import may_have_fields
from vtok.video.plausible import Declared, must_be_plausible
from vtok.video.timeline import Segment, Timeline, read_timeline

_EVEN = 2e-3  # seconds that the frames of an even video may be off their places; Matroska and FLV round to 1e-3
_SAME_RATE = 0.05  # share by which the declared rate may differ from the measured one


class StreamFacts(NamedTuple):
    """The video stream of a file.

    Attributes:
        stream: its index in the file.
        codec: name of its codec, e.g. `h264`.
        fps: average frame rate, frames per second.
        height, width: pixels, after the rotation.
        frames: frames in the stream.
        frames_exact: whether `frames` was counted from packets; else it is the container's index or header.
        duration: seconds from the display of the first frame to the end of the last.
        rotation: degrees counter-clockwise that a viewer turns the frames by: 0, 90, 180 or 270.
        has_audio: whether the file has an audio stream too.
        segments: the stretches between cuts in time, over which no clip may reach; empty: the video is one.
        times: when every frame is displayed, seconds from the first; empty where they lie evenly, or nobody knows.
        mirrored: whether frames are flipped left to right before they are turned.
        tilt: degrees counter-clockwise that the file asks for beyond the right angle, which is not done; None: none.
        pixel_aspect: a pixel's width by its height, in upright frames.
    """

    stream: int
    codec: str
    fps: float
    height: int
    width: int
    frames: int
    frames_exact: bool
    duration: float
    rotation: int
    has_audio: bool
    segments: Sequence[Segment] = ()
    times: Sequence[float] = ()
    mirrored: bool | None = False
    tilt: float | None = None
    pixel_aspect: float | None = 1.0


FOR_PLANNING = ("segments", "times")
"""Facts that only the planning of clips needs; the manifest does not have them."""


def probe(path: str | Path) -> StreamFacts:
    """The facts of a video file.

    Raises:
        VideoError: vanished, empty, unreadable, no_video, no_frames, implausible or corrupt (no frame can be
            decoded).
    """
    with open_video(path) as container:
        stream = choose_stream(container)
        set_up(stream)
        codec = stream.codec.canonical_name
        frame = first_frame(container, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        interval = 1 / (rate * float(stream.time_base)) if rate and stream.time_base else 0.0
        timeline = None if may_have_fields(stream, frame) else indexed_timeline(container, stream, interval)
        exact = timeline is None
        if timeline is None:
            timeline = read_timeline(path, stream.index)
        frames = timeline.frames
        if frames == 0:
            raise VideoError("no_frames", "the stream has no packets")
        shown = timeline.displayed
        fps = _rate(rate, frames, shown)
        if fps <= 0:
            raise VideoError("unreadable", "the stream has no frame rate")
        declared = _declared(container, stream, rate)
        must_be_plausible(frames, shown or frames / fps, declared, Path(path).stat().st_size)
        seen = orientation(frame)
        aspect = float(stream.sample_aspect_ratio or 0) or 1.0
        height, width = frame.height, frame.width
        if seen.rotation in (90, 270):
            height, width, aspect = width, height, 1 / aspect
        return StreamFacts(
            stream=stream.index,
            codec=codec,
            fps=fps,
            height=height,
            width=width,
            frames=frames,
            frames_exact=exact,
            duration=timeline.duration or frames / fps,
            rotation=seen.rotation,
            has_audio=len(container.streams.audio) > 0,
            segments=tuple(timeline.segments) if len(timeline.stretches) > 1 else (),
            times=_uneven(timeline, fps),
            mirrored=seen.mirrored,
            tilt=seen.tilt or None,
            pixel_aspect=aspect,
        )


def _rate(declared: float, frames: int, shown: float) -> float:
    """Frames per second: the declared rate, which is exact where it is true, else the measured one."""
    measured = frames / shown if shown > 0 else 0.0
    return declared if not measured or abs(declared - measured) <= _SAME_RATE * measured else measured


def _declared(container: InputContainer, stream: VideoStream, rate: float) -> Declared:
    of_stream = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    durations = [of_stream, (container.duration or 0) / av.time_base]
    return Declared(durations, rate, float(stream.codec_context.framerate or 0), container.format.name == "avi")


def _uneven(timeline: Timeline, fps: float) -> Sequence[float]:
    """The frames' times, unless they lie at i / fps."""
    seconds = timeline.seconds
    even = all(abs(time - rank / fps) <= _EVEN + timeline.tick for rank, time in enumerate(seconds))
    return () if even else array("d", seconds)


def first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    """The first frame that can be decoded.

    Raises:
        VideoError: corrupt, no_frames or unreadable.
    """
    errors = []
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return frame
            except av.error.InvalidDataError as error:
                errors.append(describe(error))
    except (av.error.InvalidDataError, EOFError) as error:
        errors.append(describe(error))
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise VideoError("unreadable", describe(error)) from None
    if errors:
        raise VideoError("corrupt", f"no frame can be decoded: {errors[0]}")
    raise VideoError("no_frames", f"the {stream.codec.canonical_name} stream has no frames")
