"""Decodes chosen frames of a video with PyAV, FFmpeg's libraries in this process: one pass, one thread.

Only wanted frames are converted to RGB. Where a long stretch holds no wanted frame, the decoder jumps to the last key
frame before the next one; if that key frame is not found, or the file seems to end after a jump, the pass starts over
without jumps: exactness comes first. `vtok.video.reading` says which frame is which.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vtok.video.container import open_video, set_up
from vtok.video.errors import VideoError
from vtok.video.geometry import Geometry
from vtok.video.pictures import EXPLODE, Landing, is_lenient
from vtok.video.pixels import Converter
from vtok.video.reading import LOST, Found, LostCountError, Reading
from vtok.video.timeline import Timeline

_MIN_JUMP = 8  # frames that a jump must save; a seek and refilling the decoder cost about as much as a few frames

Indexed = tuple[int, np.ndarray | VideoError]


def read_frames(
    path: str | Path, stream_index: int, wanted: Sequence[int], geometry: Geometry, timeline: Timeline | None = None
) -> Iterator[Indexed]:
    """Yields `(index, frame)` for the wanted frames in order.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        wanted: ascending frame indices in presentation order.
        geometry: what to do to every frame.
        timeline: allows jumps over stretches without wanted frames, and checks frames against their time stamps.

    Returns:
        uint8 (r, r, 3) for an intact frame; VideoError corrupt for one that the decoder had to make up, or that was
        predicted from one.

    Raises:
        VideoError: nothing after the last frame yielded can be had: missing_frames, corrupt, too_large, ...
    """
    done = 0
    if timeline is not None and timeline.shown.landings:
        try:
            for item in _Pass(path, stream_index, geometry, timeline.shown.landings).run(wanted):
                yield item
                done += 1
            return
        except LostCountError:
            pass
    yield from _Pass(path, stream_index, geometry, []).run(wanted[done:])


def read_found(path: str | Path, stream_index: int) -> Iterator[Found]:
    """All frames from the first on, as the decoder gives them, and what is wrong with them.

    Raises:
        VideoError: nothing after the last frame yielded can be had.
    """
    with open_video(path) as container:
        yield from Reading(path, container, _video_stream(container, stream_index)).frames()


def _video_stream(container: InputContainer, stream_index: int) -> VideoStream:
    stream = container.streams[stream_index]
    if not isinstance(stream, VideoStream):
        raise VideoError("changed", f"stream {stream_index} is no video")
    set_up(stream)
    if is_lenient(stream):
        stream.codec_context.options = EXPLODE
    return stream


class _Pass:
    """One pass over the file."""

    def __init__(self, path: str | Path, stream_index: int, geometry: Geometry, landings: Sequence[Landing]) -> None:
        self.path, self.stream_index, self.geometry, self.landings = path, stream_index, geometry, landings
        self.converter = Converter(geometry)

    def run(self, wanted: Sequence[int]) -> Iterator[Indexed]:
        """Yields as `read_frames` does.

        Raises:
            VideoError: see there.
            LostCountError: a jump led nowhere, or the end of the file came after one.
        """
        if not wanted:
            return
        at, jumped = 0, False
        with open_video(self.path) as container:
            stream = _video_stream(container, self.stream_index)
            waiting = iter(wanted)
            target = next(waiting)
            while True:
                landing = self._jump(at, target)
                jumped = jumped or landing is not None
                for number, frame, problem, *_ in Reading(self.path, container, stream, landing).frames():
                    at = number + 1
                    if number != target:
                        continue
                    if frame is None or problem is not None:
                        yield number, VideoError("corrupt", problem or LOST)
                    else:
                        yield number, self.geometry.finish(self.converter(frame))
                    following = next(waiting, None)
                    if following is None:
                        return
                    target = following
                    if self._jump(at, target) is not None:
                        break
                else:
                    if jumped:
                        raise LostCountError
                    raise VideoError("missing_frames", f"the video ends after {at} frames, {wanted[-1] + 1} are needed")

    def _jump(self, at: int, target: int) -> Landing | None:
        """The key frame to go to on the way from frame `at` to frame `target`, if that pays."""
        if not self.landings or target - at < _MIN_JUMP:
            return None
        before = bisect.bisect_right(self.landings, target, key=lambda landing: landing.rank) - 1
        return self.landings[before] if before >= 0 and self.landings[before].rank - at >= _MIN_JUMP else None
