"""Opens a video file through FFmpeg's libraries, and chooses a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, video_url
from vtok.video.signatures import what_it_is

_TITLES: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
"""Titles in no known alphabet spoil no video; PyAV 19 does not have to be told so, and does not know the word."""


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
        container = av.open(video_url(path), container_options=dict(INPUT_OPTIONS), **_TITLES)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        told = what_it_is(path)
        raise VideoError("unreadable", f"no video: {told}" if told else describe(error)) from None
    with container:
        yield container


def describe(error: Exception) -> str:
    """An FFmpeg or system error in a few words, without the path."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def choose_stream(container: InputContainer) -> VideoStream:
    """The video stream with the most pixels that is no cover picture; of equals, the default one, then the first.

    It is the choice of the ffmpeg program, decord and torchcodec.

    Raises:
        VideoError: no_video, or unreadable (of a codec that FFmpeg does not know).
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no_video", f"the file has {len(container.streams)} streams, none of them video")
    streams = [s for s in streams if s.codec_context is not None]  # without one, a stream has not even a width
    if not streams:
        raise VideoError("unreadable", "FFmpeg has no decoder for its video stream")
    default = Disposition.default
    return max(streams, key=lambda s: (s.width * s.height, bool(s.disposition & default), -s.index))


def set_up(stream: VideoStream) -> None:
    """One thread: extra ones cost 4-12 % more CPU a frame, and the workers are parallel already.

    What the bitstream says is to be cut off is cut off to the pixel, and not to where a processor likes rows to begin.
    """
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.unaligned
