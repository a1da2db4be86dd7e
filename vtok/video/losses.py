"""Whether frames are lost where time jumps, or one was only held: what the codec and the other frames tell."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import av
from av.video.stream import VideoStream

from vtok.video.h264 import H264, Slice

_EVEN = 2e-3  # seconds that the intervals of even frames may differ by; Matroska and FLV round to 1e-3
_STEADY = 0.9  # share of the intervals that are equal where frames come evenly
_LATE = 1.5  # usual intervals; a frame that comes later than that follows a gap
_REORDERED = 16  # frames; H.264 stores one at most so many places away from where it is shown
_BEGINS = 512  # bytes of a packet that hold the header of its first slice, but for long user data
_DOUBTFUL = 0.25  # share of the numbers near gaps that do not follow the ones before, where they tell nothing


class Numbering:
    """Compares the numbers of H.264 frames where the next one comes late, packet by packet in the order of the file.

    Args:
        stream: a video stream.
        late: ticks after all the pictures before it that a picture is late.
        interval: ticks from frame to frame by the declared rate; 0: unknown.
    """

    def __init__(self, stream: VideoStream, late: float, interval: float) -> None:
        is_h264 = stream.codec.canonical_name == "h264"
        self._extradata = bytes(stream.codec_context.extradata or b"") if is_h264 else None
        self._late, self._interval = late, interval
        self._high: int | None = None
        self._before: av.Packet | None = None
        self._found: set[int] = set()

    @property
    def continued(self) -> frozenset[int] | None:
        """Numbers of the packets that are late, but follow the one before; None: the codec does not say."""
        return None if self._extradata is None else frozenset(self._found)

    def put(self, packet: av.Packet, number: int) -> None:
        """Takes the next picture's first packet."""
        if self._extradata is None:
            return
        if packet.pts is not None:
            gap = 0 if self._high is None else packet.pts - self._high
            if gap > self._late and self._follows(packet, round(gap / self._interval) if self._interval else 0):
                self._found.add(number)
            self._high = packet.pts if self._high is None else max(self._high, packet.pts)
        self._before = packet

    def _follows(self, packet: av.Packet, frames: int) -> bool:
        """Whether the packet continues the one before; in `frames` there was time for so many, if none was held."""
        if self._before is None:
            return True
        reader = H264(self._extradata or b"")
        first, second = reader.read(bytes(self._before)), reader.read(bytes(packet))
        if first is None or second is None:
            return False
        return second.idr or (_is_next(first, second) and not _may_be_round(first, second, frames))


@dataclass(slots=True)
class _Stored:
    """A packet, and its first slice once that has been read."""

    number: int
    begins: bytes
    slice_: Slice | None = None
    is_read: bool = False


class Breaks:
    """Finds lost H.264 frames that others need: the numbers of reference frames have a gap where time has one.

    A lost packet of an RTMP or RTSP recording leaves a gap of one interval, as a hold does that a screen recording is
    full of. Headers of slices are read near such gaps only, each once.

    Args:
        stream: a video stream.
        interval: ticks from frame to frame by the declared rate; 0: unknown.
    """

    def __init__(self, stream: VideoStream, interval: float) -> None:
        is_h264 = stream.codec.canonical_name == "h264"
        self._reader = H264(bytes(stream.codec_context.extradata or b"")) if is_h264 else None
        self._usual = interval or float("inf")  # the shortest interval seen: the rate of a varied stream is an average
        self._recent: deque[_Stored] = deque(maxlen=2 * _REORDERED + 2)
        self._waiting: list[int] = []  # a heap of the time stamps that others may come before
        self._last: int | None = None
        self._compared: set[int] = set()
        self._found: set[int] = set()

    @property
    def lost(self) -> frozenset[int]:
        """Numbers of the packets before which, in the order of the file, a frame is lost that later ones need.

        Empty where too many say so: streams that lack layers by intent, or encoders that do not number as they should.
        """
        self._pass_all()
        if self._reader is None or self._reader.skips_numbers:
            return frozenset()
        return frozenset(self._found if len(self._found) <= _DOUBTFUL * len(self._compared) else ())

    def put(self, packet: av.Packet, number: int, *, restarts: bool) -> None:
        """Takes the next picture's first packet, and whether the clock starts again there."""
        if self._reader is None:
            return
        if restarts:
            self._pass_all()
            self._recent.clear()
            self._last = None
        stored = _Stored(number, bytes(memoryview(packet)[:_BEGINS]))
        if packet.is_keyframe:  # parameter sets may change
            stored.slice_, stored.is_read = self._reader.read(bytes(packet)), True
        self._recent.append(stored)
        if packet.pts is not None:
            heapq.heappush(self._waiting, packet.pts)
            if len(self._waiting) > _REORDERED:
                self._pass(heapq.heappop(self._waiting))

    def _pass_all(self) -> None:
        while self._waiting:
            self._pass(heapq.heappop(self._waiting))

    def _pass(self, pts: int) -> None:
        gap = 0 if self._last is None else pts - self._last
        if gap > _LATE * self._usual:
            self._compare()
        if gap > 0:
            self._usual = min(self._usual, gap)
        self._last = pts if self._last is None else max(self._last, pts)

    def _compare(self) -> None:
        assert self._reader is not None
        for stored in self._recent:
            if not stored.is_read:
                stored.slice_, stored.is_read = self._reader.read(stored.begins), True
        for before, stored in itertools.pairwise(self._recent):
            first, second = before.slice_, stored.slice_
            if first is not None and second is not None:
                self._compared.add(stored.number)
                if not second.idr and not _is_next(first, second):
                    self._found.add(stored.number)


def _is_next(first: Slice, second: Slice) -> bool:
    """Section 7.4.3: the number rises after each reference frame, and starts at 0 again after at least 15."""
    wanted = first.frame_num + first.reference
    return second.frame_num == wanted or (second.frame_num == 0 and first.reference and first.frame_num >= 15)


def _may_be_round(first: Slice, second: Slice, frames: int) -> bool:
    """Whether so many frames may be lost that the numbers are the same again: they may have four bits only."""
    far = abs((second.order or 0) - (first.order or 0))  # twice the frames between them, unless that starts again, too
    return frames > 1 and (far >= frames or (frames - 1) % 16 == 0)


def come_evenly(intervals: Sequence[int], tick: float) -> bool:
    """Whether nearly all intervals between frames, ticks, are the same."""
    if not intervals:
        return False
    usual, allowed = sorted(intervals)[len(intervals) // 2], _EVEN / tick + 1
    return sum(abs(interval - usual) <= allowed for interval in intervals) >= _STEADY * len(intervals)
