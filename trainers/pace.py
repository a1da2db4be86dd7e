"""Notices when steps become slow, and times the threads again.

The number of threads stays as it was chosen: another one rounds sums differently, and a run would depend on who else
was at work on the machine, and when. So what is found is said, and whoever trains decides. (Since waiting threads
sleep, `vtok/openmp.py`, all cores are seldom much slower than one, even when others are busy on them.)
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

from vtok import console
from vtok.hardware import time_threads

SLOW = 1.5
"""So many times as long as before counts as slow."""

BETTER = 1.2
"""So many times as fast is worth a change."""

_STEPS = 20
_REST = 300.0  # seconds between two timings, which take a few steps' time


class Pace:
    """How long steps take, against how long they took.

    Args:
        name: of the task.
        threads: torch threads in use.
        clock: seconds, for the pause between two timings.
    """

    def __init__(self, name: str, threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._threads, self._clock = name, threads, clock
        self._last: deque[float] = deque(maxlen=_STEPS)
        self._usual: float | None = None
        self._timed: float | None = None

    def slower(self, seconds: float) -> float | None:
        """How many times as long the last steps took, if that is to be looked into; takes the next step's seconds."""
        self._last.append(seconds)
        if len(self._last) < _STEPS:
            return None
        now = statistics.median(self._last)
        if self._usual is None or now < self._usual:
            self._usual = now
        ratio = now / self._usual
        if ratio < SLOW or (self._timed is not None and self._clock() - self._timed < _REST):
            return None
        self._usual, self._timed = now, self._clock()
        self._last.clear()
        return ratio

    def look_into(self, ratio: float, step: Callable[[], None]) -> None:
        """Times the threads again and says what was found; nothing is changed.

        Args:
            ratio: how many times as long steps take.
            step: what is timed.
        """
        times = time_threads(step)
        if len(times) < 2 or self._threads not in times:
            return
        shown = ", ".join(f"{found:.3g} s on {console.count(count, 'threads')}" for count, found in times.items())
        best = min(times, key=times.__getitem__)
        kept = f"{console.count(self._threads, 'threads')} stay"
        if times[self._threads] > BETTER * times[best]:
            kept += (
                f"; to change to {best}, stop (Ctrl-C) and run the same command with "
                f"{self._name}.train.threads={best}: losses may then differ in their last bits"
            )
        console.note(f"{self._name}: steps take {ratio:.1f} times as long as before; timed again, {shown}: {kept}")
