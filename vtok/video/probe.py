"""Reads the facts of a video: which stream, how large, how many frames, how fast, turned by how much.

Headers are read, one frame is decoded (only frames carry the rotation and their true size), and packets are counted
where the container has no trustworthy count (Matroska and WebM have none at all).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, video_url

_REORDERING = 64  # packets; codecs store a frame at most 16 or 32 places away from where it is shown
_PLACEHOLDER = 8  # bytes; packets no larger than this stand for B-frames that are packed into the one before
_VP8_SHOWN = 0x10
_INDEXED = {"mov", "mp4", "avi"}  # containers whose index lists every frame


class StreamFacts(NamedTuple):
    """The video stream of a file.

    Attributes:
        stream: its index in the file.
        codec: name of its codec, e.g. `h264`.
        fps: average frame rate, frames per second.
        height, width: pixels, after the rotation.
        frames: frames in the stream.
        frames_exact: whether `frames` was counted from packets; else it is the container's index or header.
        duration: seconds.
        rotation: degrees counter-clockwise that a viewer turns the frames by: 0, 90, 180 or 270.
        has_audio: whether the file has an audio stream too.
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


@contextmanager
def open_video(path: str | Path) -> Iterator[InputContainer]:
    """Opens a video file for reading; text, playlists and network addresses are refused.

    Raises:
        VideoError: vanished, empty or unreadable.
    """
    try:
        size = Path(path).stat().st_size
        if not Path(path).is_file():
            folder = Path(path).is_dir()
            raise VideoError("unreadable", "a folder that cannot be listed" if folder else "not a regular file")
        if size == 0:
            raise VideoError("empty", "0 bytes")
        container = av.open(video_url(path), container_options=dict(INPUT_OPTIONS), metadata_errors="replace")
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError("unreadable", describe(error)) from None
    with container:
        yield container


def describe(error: Exception) -> str:
    """An FFmpeg or system error in a few words, without the path."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def choose_stream(container: InputContainer) -> VideoStream:
    """The video stream with the most pixels that is no cover picture; of equals, the default one, then the first.

    It is the choice of the ffmpeg program, decord and torchcodec.

    Raises:
        VideoError: no_video.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no_video", f"the file has {len(container.streams)} streams, none of them video")
    default = Disposition.default
    return max(streams, key=lambda s: (s.width * s.height, bool(s.disposition & default), -s.index))


def single_threaded(stream: VideoStream) -> None:
    """One thread: extra ones cost 4-12 % more CPU a frame, and the workers are parallel already."""
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1


def probe(path: str | Path) -> StreamFacts:
    """The facts of a video file.

    Raises:
        VideoError: vanished, empty, unreadable, no_video, no_frames or corrupt (no frame can be decoded).
    """
    with open_video(path) as container:
        stream = choose_stream(container)
        single_threaded(stream)
        codec = stream.codec.canonical_name
        frame = _first_frame(container, stream)
        frames, duration = _indexed_frames(container, stream), _header_duration(container, stream)
        exact = frames is None
        if frames is None:
            frames, counted = _count(path, stream.index)
            duration = counted or duration
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else (frames / duration if duration else 0.0)
        if fps <= 0:
            raise VideoError("unreadable", "the stream has no frame rate")
        rotation = round(frame.rotation / 90) * 90 % 360
        height, width = (frame.width, frame.height) if rotation in (90, 270) else (frame.height, frame.width)
        return StreamFacts(
            stream=stream.index,
            codec=codec,
            fps=fps,
            height=height,
            width=width,
            frames=frames,
            frames_exact=exact,
            duration=duration or frames / fps,
            rotation=rotation,
            has_audio=len(container.streams.audio) > 0,
        )


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
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


def _indexed_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """Frames by the container's index, less those that an edit list cuts off; None where that cannot be trusted."""
    if not _INDEXED & set(container.format.name.split(",")) or not stream.frames:
        return None
    entries = stream.index_entries
    # A fragmented file indexes only what has been read so far.
    if len(entries) < stream.frames:
        return None
    return sum(not entry.is_discard for entry in entries) or None


def _header_duration(container: InputContainer, stream: VideoStream) -> float:
    """Seconds; 0 where no header says."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


class Timeline(NamedTuple):
    """What the packets say about the frames, in presentation order.

    Attributes:
        pts: time stamp of every frame in units of the stream's time base; empty where packets carry none (AVI).
        keys: ranks (indices into `pts`) of the key frames.
        frames: number of frames.
        end: time stamp at which the last frame ends; 0 without `pts`.
        tick: seconds a unit.
        headless: whether the stream begins with frames that need a key frame that is not there.
    """

    pts: list[int]
    keys: list[int]
    frames: int
    end: int
    tick: float
    headless: bool = False

    @property
    def seconds(self) -> list[float]:
        """Time of every frame in seconds from the first."""
        return [(pts - self.pts[0]) * self.tick for pts in self.pts]

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last; 0 without `pts`."""
        return (self.end - self.pts[0]) * self.tick if self.pts else 0.0


def read_timeline(
    path: str | Path, stream_index: int, *, frames: int | None = None, seconds: float | None = None
) -> Timeline:
    """Demuxes the stream without decoding.

    A damaged tail ends the timeline; decoding reports it.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        frames, seconds: only the first so many need be right; the timeline ends somewhat behind the later of the two.
            None for both: all of it.
    """
    stamps: list[tuple[int, bool]] = []
    count, end, complete, headless, spare = 0, 0, True, None, _REORDERING
    with open_video(path) as container:
        stream = container.streams[stream_index]
        tick = float(stream.time_base or 0)
        guessed, limited = has_guessed_stamps(container), frames is not None or seconds is not None
        try:
            for packet in container.demux(stream):
                if headless is None:
                    headless = not packet.is_keyframe
                if not is_picture(packet):
                    continue
                count += 1
                if packet.pts is None or (guessed and packet.size <= _PLACEHOLDER):
                    complete = False
                else:
                    stamps.append((packet.pts, packet.is_keyframe))
                    end = max(end, packet.pts + (packet.duration or 0))
                reached = (end - stamps[0][0]) * tick if stamps else 0.0
                if limited and count > (frames or 0) and (not seconds or reached > seconds):
                    spare -= 1
                    if spare == 0:
                        break
        except (av.error.InvalidDataError, EOFError):
            pass
    stamps.sort()
    pts = [stamp for stamp, _ in stamps]
    if not complete or len(set(pts)) != len(pts):
        return Timeline([], [], count, 0, tick, bool(headless))
    return Timeline(pts, [rank for rank, (_, key) in enumerate(stamps) if key], count, end, tick, bool(headless))


def has_guessed_stamps(container: InputContainer) -> bool:
    """AVI stores no time stamps: those of its packets are FFmpeg's guess, wrong where B-frames are packed (Xvid)."""
    return container.format.name == "avi"


def is_picture(packet: av.Packet) -> bool:
    """Whether a packet becomes a frame that is shown.

    Edit lists cut frames off; VP8 has frames that only others are predicted from (RFC 6386, section 9.1: `show_frame`).
    """
    if packet.size == 0 or packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOWN)


def _count(path: str | Path, stream_index: int) -> tuple[int, float]:
    """Frames and duration (seconds; 0: unknown) from the packets."""
    timeline = read_timeline(path, stream_index)
    if timeline.frames == 0:
        raise VideoError("no_frames", "the stream has no packets")
    return timeline.frames, timeline.duration
