"""Whether frames are lost where time jumps, or one was only held: what the codec and the other frames tell."""

from __future__ import annotations

from collections.abc import Sequence

import av
from av.video.stream import VideoStream

from vtok.video.h264 import H264, Slice

_EVEN = 2e-3  # seconds that the intervals of even frames may differ by; Matroska and FLV round to 1e-3
_STEADY = 0.9  # share of the intervals that are equal where frames come evenly


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
