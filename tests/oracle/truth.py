"""What is right about a file: its frames, their times and colours, and which of them must still be had."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.oracle.picture import Picture

_COARSE = 2e-3  # seconds; more than containers round: all frames around a time may be right
_SAME = 2e-7  # seconds; rounding of sums of seconds


@dataclass
class Truth:
    """Known from how the file was made.

    Attributes:
        picture: what the frames look like.
        numbers: of the frames, in the order in which they are shown.
        times: when each is shown, seconds from the first; empty where the container has no time stamps.
        ends: when the last one ends, at the earliest and at the latest, seconds.
        tick: seconds by which the container rounds.
        lost: indices of frames that may be rejected; all others must be had.
        free: indices of frames of which nothing is known, because damage touched them.
        cuts: indices of frames before which there is a hole: no clip may hold frames from both sides.
        planned: whether the number of clips follows from `numbers` and `times`.
        tolerance: levels by which a coloured pixel, a grey one, and the mean of a cell may be off.
        soft: pixels around the edges of cells that a lossy codec blurs.
        chroma: pixels (across, down) around coloured edges that mix, because chroma has fewer samples.
        refusable: whether the file as a whole may be refused instead.
        equal: whether both decoders promise the same bytes.
    """

    picture: Picture
    numbers: list[int]
    times: list[float]
    ends: tuple[float, float] = (0.0, 0.0)
    tick: float = 0.0
    lost: set[int] = field(default_factory=set)
    free: set[int] = field(default_factory=set)
    cuts: set[int] = field(default_factory=set)
    planned: bool = True
    tolerance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    soft: int = 0
    chroma: tuple[int, int] = (2, 2)
    refusable: bool = False
    equal: bool = True

    def shown_at(self, time: float) -> set[int]:
        """Indices of the frames that may be shown at a time: two where the container's rounding decides."""
        slack = self.tick + _SAME
        if self.tick > _COARSE:
            first = max(0, bisect.bisect_right(self.times, time - slack) - 1)
            return set(range(first, max(first + 1, bisect.bisect_right(self.times, time + slack))))
        last = bisect.bisect_right(self.times, time + _SAME) - 1
        found = {max(0, last)}
        for index in (last, last + 1):
            if 0 <= index < len(self.times) and _SAME < abs(self.times[index] - time) <= slack:
                found |= {max(0, index - 1), index}
        return found

    def clips_by_stride(self, length: int, stride: int, hop: int) -> int:
        """How many windows fit into the frames."""
        room = len(self.numbers) - ((length - 1) * stride + 1)
        return room // (hop * stride) + 1 if room >= 0 else 0

    def clips_by_rate(self, length: int, rate: float, hop: int) -> range:
        """How many windows fit into the time: one number, or two where rounding decides."""
        counts = []
        for end in (self.ends[0] - self.tick - _SAME, self.ends[1] + self.tick + _SAME):
            room = end - (length - 1) / rate
            counts.append(int(-(-room // (hop / rate))) if room > 0 else 0)
        return range(counts[0], counts[-1] + 1)


def regular(count: int, interval: float) -> list[float]:
    """Times of frames at a constant rate."""
    return [number * interval for number in range(count)]


def last_end(times: Sequence[float], fallback: float) -> float:
    """When the last frame ends, if it is shown as long as the one before it."""
    return times[-1] + (times[-1] - times[-2] if len(times) > 1 else fallback)
