"""Decodes chosen frames of a video with PyAV, FFmpeg's libraries in this process: one pass, one thread.

Only wanted frames are converted to RGB. Where a long stretch holds no wanted frame, the decoder jumps to the last key
frame before the next one; every frame after a jump is identified by its time stamp, and if that fails the pass starts
over without jumps: exactness comes first. Without jumps, too, frames are held against the packets that went into the
decoder, so that a frame which it leaves out is noticed instead of moving all later ones up.
"""

from __future__ import annotations

import bisect
import heapq
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

from vtok.video.container import describe, has_guessed_stamps, is_picture, open_video, single_threaded
from vtok.video.errors import VideoError
from vtok.video.geometry import Geometry
from vtok.video.timeline import Timeline

_MIN_JUMP = 8  # frames that a jump must save; a seek and refilling the decoder cost about as much as a few frames

HEADLESS = "the stream does not begin with a key frame"
LOST = "the decoder gives no picture for it"

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
    frame: VideoFrame | None  # None: the decoder left it out


class _Order:
    """Numbers the frames that come out of the decoder by the time stamps of the packets that went in."""

    def __init__(self, *, stamped: bool) -> None:
        self._waiting: list[int] = []
        self._stamped, self._any_lost = stamped, False

    def put(self, packet: av.Packet) -> None:
        if not self._stamped or not is_picture(packet):
            return
        if packet.pts is None:
            self._stamped = False  # AVI: nothing to hold the frames against
        else:
            heapq.heappush(self._waiting, packet.pts)

    def lost_before(self, frame: VideoFrame) -> int:
        """How many frames should have come out before this one and have not.

        Raises:
            VideoError: corrupt, if the time stamps make no sense.
        """
        if not self._stamped:
            return 0
        if frame.pts is None or frame.pts not in self._waiting:
            if self._any_lost:
                raise VideoError("corrupt", "frames cannot be told apart by their time stamps")
            self._stamped = False  # the decoder makes its own
            return 0
        lost = 0
        while heapq.heappop(self._waiting) != frame.pts:
            lost, self._any_lost = lost + 1, True
        return lost


class _Pass:
    """One pass over the file."""

    def __init__(self, path: str | Path, stream_index: int, geometry: Geometry, timeline: Timeline | None) -> None:
        self.path, self.stream_index, self.geometry, self.timeline = path, stream_index, geometry, timeline
        self.rank = {pts: rank for rank, pts in enumerate(timeline.pts)} if timeline else {}
        self.reformatter = VideoReformatter()
        self.broken: str | None = None  # why the present frame cannot be sound

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
                self.broken = None
                for number, frame in self._frames(container, stream, at, jumped=first > 0):
                    if number < first:
                        continue
                    if key is not None and number != max(at, first):
                        raise _LostCount
                    at = number + 1
                    self._look_at(frame)
                    if number > wanted[position]:
                        raise _LostCount
                    if number == wanted[position]:
                        if frame is None or self.broken is not None:
                            yield number, VideoError("corrupt", self.broken or LOST)
                        else:
                            yield number, self._convert(frame)
                        position += 1
                        if position == len(wanted) or self._jump(at, wanted[position]) is not None:
                            break
                else:
                    raise VideoError("missing_frames", f"the video ends after {at} frames, {wanted[-1] + 1} are needed")

    def _look_at(self, frame: VideoFrame | None) -> None:
        """A frame that is missing or has concealed errors spoils those after it, up to the next key frame."""
        if frame is None:
            self.broken = self.broken or LOST
        elif frame.is_corrupt:
            self.broken = "damaged data"
        elif frame.key_frame:
            self.broken = None

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
        order, begun = _Order(stamped=not has_guessed_stamps(container)), jumped
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
                if not begun:
                    begun = True
                    self.broken = None if packet.is_keyframe else HEADLESS
                order.put(packet)
                failure, decoded = self._decode(packet, stream, at)
                bad_pts = packet.pts
            for frame in decoded:
                # Frames that come out of a failed decoder are sound only if they precede the bad packet.
                if failure is not None and (bad_pts is None or frame.pts is None or frame.pts >= bad_pts):
                    raise failure
                if self.timeline is None:
                    for _ in range(order.lost_before(frame)):
                        yield _Found(at, None)
                        at += 1
                else:
                    at = self._rank(frame, at, jumped=jumped)
                yield _Found(at, frame)
                at += 1
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

    def _rank(self, frame: VideoFrame, at: int, *, jumped: bool) -> int:
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
            self.geometry.pixel_format,
            interpolation=Interpolation.BILINEAR,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        plane = rgb.planes[0]
        return self.geometry.finish(self.geometry.view(memoryview(plane), height, width, plane.line_size))
