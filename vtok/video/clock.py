"""Notices where the clock of a stream's time stamps starts again: files joined with cat, broadcasts that were cut."""

from __future__ import annotations

from typing import NamedTuple

LEAP = 10.0
"""Seconds by which a clock jumps ahead that starts again: the ffmpeg program's own limit (dts_delta_threshold)."""
_BACK, _BACK_AT_KEY = 1.0, 0.1  # seconds by which a clock goes back that starts again; less is disorder
_BACK_IN_STREAMS = 0.0  # of both clocks at a key frame of a broadcast: joined pieces that overlap by few frames
JUMPY = {"mpegts", "mpeg"}
"""Containers whose clock may jump ahead, too; they have no index, so that seeking leads to about the right time."""


class Stamp(NamedTuple):
    """What one packet says: time stamps and duration in ticks, and whether it is a key frame."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool


class Clock:
    """Notices, packet by packet in the order of the file, where the clock starts again."""

    def __init__(self, tick: float, *, jumpy: bool) -> None:
        self._tick, self._jumpy = tick, jumpy
        self._far = LEAP / tick if tick else 0.0
        self._count, self._before = 0, 0
        self._low: int | None = None  # lowest and highest time of display so far, and the last time of decoding
        self._high: int | None = None
        self._dts: int | None = None
        self.starts: list[int] = []  # numbers of the packets at which it does

    @property
    def reached(self) -> int:
        """Ticks from the first frame, about."""
        return self._before + (0 if self._low is None or self._high is None else self._high - self._low)

    def put(self, stamp: Stamp) -> None:
        """Takes the next packet."""
        pts = stamp.dts if stamp.pts is None else stamp.pts
        if pts is not None:
            goes_on = stamp.dts is not None and self._dts is not None and 0 <= stamp.dts - self._dts <= self._far
            if not goes_on and self._starts_again(stamp, pts):
                self._before = self.reached
                self._low = self._high = self._dts = None
                self.starts.append(self._count)
            if self._low is None or pts < self._low:
                self._low = pts
            if self._high is None or pts > self._high:
                self._high = pts
            if stamp.dts is not None:
                self._dts = stamp.dts
        self._count += 1

    def _starts_again(self, stamp: Stamp, pts: int) -> bool:
        """By both clocks where there are two: a picture that is stored late has a lower pts, but a later dts."""
        if self._high is None:
            return False
        ahead, least = pts - self._high, _BACK_AT_KEY if stamp.key else _BACK
        if stamp.dts is not None and self._dts is not None:
            back, ahead = min(-ahead, self._dts - stamp.dts), min(ahead, stamp.dts - self._dts)
            if self._jumpy and stamp.key and stamp.pts is not None:
                least = _BACK_IN_STREAMS
        else:
            back = -ahead if stamp.key else 0
        if back * self._tick > least:
            return True
        return self._jumpy and ahead * self._tick > LEAP
