"""Decodes chosen frames of a video with PyAV, FFmpeg's libraries in this process: one pass, one thread.

Only wanted frames are converted to RGB. Where a long stretch holds no wanted frame, the decoder jumps to the last key
frame before the next one; every frame after a jump is identified by its time stamp, and if that fails the pass starts
over without jumps: exactness comes first.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from vtok.video.errors import VideoError
from vtok.video.geometry import Geometry
from vtok.video.probe import Timeline, describe, open_video, single_threaded

_MIN_JUMP = 24  # frames that a jump must save; a seek costs about as much as decoding a few frames

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
    if timeline is not None and timeline.pts:
        try:
            for item in _Pass(path, stream_index, geometry, timeline).run(wanted):
                yield item
                done += 1
            return
        except _LostCount:
            pass
    yield from _Pass(path, stream_index, geometry, None).run(wanted[done:])


class _LostCount(Exception):
    """After a jump the frames cannot be told apart by their time stamps."""


class _Found(NamedTuple):
    number: int
    frame: VideoFrame


class _Pass:
    """One pass over the file."""

    def __init__(self, path: str | Path, stream_index: int, geometry: Geometry, timeline: Timeline | None) -> None:
        self.path, self.stream_index, self.geometry, self.timeline = path, stream_index, geometry, timeline
        self.rank = {pts: rank for rank, pts in enumerate(timeline.pts)} if timeline else {}
        self.reformatter = VideoReformatter()

    def run(self, wanted: Sequence[int]) -> Iterator[Indexed]:
        position, first = 0, 0  # of the next wanted frame; lowest index that may be used
        with open_video(self.path) as container:
            stream = container.streams[self.stream_index]
            if not isinstance(stream, VideoStream):
                raise VideoError("changed", f"stream {self.stream_index} is no video")
            single_threaded(stream)
            at = 0
            while position < len(wanted):
                key = self._jump(at, wanted[position])
                if key is not None and self.timeline is not None:
                    container.seek(self.timeline.pts[key], stream=stream, backward=True)
                    first = key
                broken: str | None = None
                for found in self._frames(container, stream, at, jumped=first > 0):
                    at = found.number + 1
                    if found.number < first:
                        continue
                    broken = self._state(found.frame, broken)
                    if found.number > wanted[position]:
                        raise _LostCount
                    if found.number == wanted[position]:
                        yield found.number, VideoError("corrupt", broken) if broken else self._convert(found.frame)
                        position += 1
                        if position == len(wanted) or self._jump(at, wanted[position]) is not None:
                            break
                else:
                    raise VideoError("missing_frames", f"the video ends after {at} frames, {wanted[-1] + 1} are needed")

    def _state(self, frame: VideoFrame, broken: str | None) -> str | None:
        """A frame with concealed errors spoils the frames after it, up to the next key frame."""
        if frame.is_corrupt:
            return "damaged data"
        return None if frame.key_frame else broken

    def _jump(self, at: int, target: int) -> int | None:
        """The key frame to go to on the way from frame `at` to frame `target`, if that pays."""
        if self.timeline is None or target - at < _MIN_JUMP:
            return None
        before = bisect.bisect_right(self.timeline.keys, target) - 1
        key = self.timeline.keys[before] if before >= 0 else 0
        return key if key - at >= _MIN_JUMP else None

    def _frames(self, container: InputContainer, stream: VideoStream, at: int, *, jumped: bool) -> Iterator[_Found]:
        """Numbered frames from where the container stands.

        Raises:
            VideoError: reading or decoding failed; intact frames before the failure have been yielded.
        """
        failure: VideoError | None = None
        packets = container.demux(stream)
        bad_pts: int | None = None
        while failure is None:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except MemoryError:
                raise
            except (av.error.FFmpegError, EOFError) as error:
                failure = VideoError("corrupt", f"after frame {at}: {describe(error)}")
                decoded: list[VideoFrame] = []
            else:
                failure, decoded = self._decode(packet, stream, at)
                bad_pts = packet.pts
            for frame in decoded:
                # Frames that come out of a failed decoder are sound only if they precede the bad packet.
                if failure is not None and (bad_pts is None or frame.pts is None or frame.pts >= bad_pts):
                    raise failure
                index = self._number(frame, at, jumped=jumped)
                yield _Found(index, frame)
                at = index + 1
        raise failure

    def _decode(self, packet: av.Packet, stream: VideoStream, at: int) -> tuple[VideoError | None, list[VideoFrame]]:
        try:
            if not packet.is_corrupt:
                return None, list(stream.codec_context.decode(packet if packet.size else None))
            short = (packet.pos or 0) + packet.size >= Path(self.path).stat().st_size
            failure = VideoError(
                "missing_frames" if short else "corrupt",
                f"the file ends within frame {at}" if short else f"damaged packet after frame {at}",
            )
        except MemoryError:
            raise
        except (av.error.FFmpegError, EOFError) as error:
            failure = VideoError("corrupt", f"after frame {at}: {describe(error)}")
        try:
            return failure, list(stream.codec_context.decode(None))
        except (av.error.FFmpegError, EOFError):
            return failure, []

    def _number(self, frame: VideoFrame, at: int, *, jumped: bool) -> int:
        if self.timeline is None:
            return at
        rank = self.rank.get(frame.pts) if frame.pts is not None else None
        if rank is None or (not jumped and rank != at):
            raise _LostCount
        return rank

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        height, width = self.geometry.scaled_size(frame.height, frame.width)
        # libswscale takes matrix and range from the frame; without a matrix it uses BT.601, like the ffmpeg program.
        rgb = self.reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            interpolation=Interpolation.BILINEAR,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return self.geometry.finish(rgb.to_ndarray())
