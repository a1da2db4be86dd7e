"""What the user sees while something long runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal


def say(text: str) -> None:
    """Prints a line for the user at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Prints a remark to standard error, so that piped output stays clean."""
    print(text, file=sys.stderr, flush=True)


def count(number: float, unit: str) -> str:
    """`12,345 clips`, with the unit's plural `s` dropped for exactly one."""
    word = unit[:-1] if number == 1 and unit.endswith("s") else unit
    return f"{number:,.0f} {word}"


def duration(seconds: float) -> str:
    """`4s`, `3m20s` or `1h12m`."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"


def size(number: float) -> str:
    """Bytes with a binary unit: `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


class Progress:
    """Counts work done, with a rate, rejects and the time left.

    Args:
        title: what is being done.
        total: planned items.
        unit: what an item is, plural.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.rejects = 0
        self._skipped = 0
        self._start = self._last = time.monotonic()
        self._tty = sys.stderr.isatty()

    def skip(self, items: int) -> None:
        """Items that an earlier run finished: they count as done but not towards the rate."""
        self.done += items
        self._skipped += items

    def advance(self, items: int, rejects: int = 0) -> None:
        """Adds finished items; `rejects` of them were rejected."""
        self.done += items
        self.rejects += rejects
        now = time.monotonic()
        if self._tty or now - self._last >= _PLAIN_EVERY:
            self._last = now
            self._show()

    def line(self) -> str:
        """The present state as one line."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._skipped) / elapsed
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        return (
            f"{self.title} {self.done}/{self.total} {self.unit}  {rate:.1f} {self.unit}/s  "
            f"rejected {self.rejects}  eta {left}"
        )

    def _show(self) -> None:
        if self._tty:
            sys.stderr.write(f"\r\x1b[2K{self.line()}")
            sys.stderr.flush()
        else:
            note(self.line())

    def close(self) -> None:
        """Clears the bar."""
        if self._tty:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Progress]:
    """A `Progress` that is cleared at the end of the block."""
    bar = Progress(title, total, unit)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Sends what libraries print (and what their child processes print) to standard error for a while."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
