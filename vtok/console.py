"""What the user sees while something long runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

_PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def say(text: str) -> None:
    """Prints a line for the user at once. File names may hold what a terminal obeys: it is spelt out."""
    print(text.translate(_CONTROLS), flush=True)


def note(text: str) -> None:
    """Prints a remark to standard error, so that piped output stays clean."""
    print(text.translate(_CONTROLS), file=sys.stderr, flush=True)


def name(text: str) -> str:
    """A file's name on one line: line breaks and tabs are spelt out, too."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - shown:,} more" if len(listed) > shown else ""
    return ", ".join(name(one) for one in listed[:shown]) + more


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


def short(number: float) -> str:
    """A rate in few characters: `0.4`, `12.3`, `812`, `13.0k`, `2.1M`."""
    for unit in ("", "k", "M"):
        if number < 1000 or unit == "M":
            break
        number /= 1000
    return f"{number:.0f}{unit}" if number >= 100 and not unit else f"{number:.1f}{unit}"


class Progress:
    """Counts work done, with rates, rejects by reason and the time left; a context manager that clears its bar.

    Args:
        title: what is being done.
        total: planned items.
        unit: what an item is, plural.
        total_cost: of all items, in any unit; the time left is reckoned with it. None: every item costs the same.
    """

    def __init__(self, title: str, total: int, unit: str, total_cost: float | None = None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.total_cost = float(total) if total_cost is None else total_cost
        self.done = self.frames = self.tokens = self.bytes = 0
        self.cost = self.busy = 0.0
        self.rejects: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self._skipped, self._skipped_cost = 0, 0.0
        self._start = self._last = time.monotonic()
        self._tty = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def skip(self, items: int, cost: float | None = None) -> None:
        """Items that an earlier run finished: they count as done but not towards the rates."""
        self.done += items
        self.cost += items if cost is None else cost
        self._skipped, self._skipped_cost = self.done, self.cost

    def advance(
        self,
        items: int,
        *,
        cost: float | None = None,
        frames: int = 0,
        tokens: int = 0,
        size: int = 0,
        rejects: Mapping[str, int] | None = None,
        phases: Mapping[str, float] | None = None,
        busy: float = 0.0,
    ) -> None:
        """Adds finished items.

        Args:
            items: how many.
            cost: theirs, of `total_cost`.
            frames: source frames that were decoded for them.
            tokens: codes that they became.
            size: bytes written.
            rejects: how many were rejected, by reason.
            phases: seconds of workers by phase.
            busy: seconds of workers in all.
        """
        self.done += items
        self.cost += items if cost is None else cost
        self.frames += frames
        self.tokens += tokens
        self.bytes += size
        self.busy += busy
        self.rejects.update(rejects or {})
        for name, seconds in (phases or {}).items():
            self.phases[name] += seconds  # type: ignore[assignment]
        now = time.monotonic()
        if self._tty or now - self._last >= _PLAIN_EVERY:
            self._last = now
            self._show()

    def line(self) -> str:
        """The present state as one line."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        words = [f"{self.title} {self.done}/{self.total} {self.unit}"]
        words.append(f"{short((self.done - self._skipped) / elapsed)} {self.unit}/s")
        if self.frames:
            words.append(f"{short(self.frames / elapsed)} frames/s")
        if self.tokens:
            words.append(f"{short(self.tokens / elapsed)} tokens/s")
        if self.bytes:
            words.append(f"{self.bytes / 1e6 / elapsed:.1f} MB/s")
        words.append(f"rejected {self.rejects.total()}{_listed(self.rejects)}")
        pace = (self.cost - self._skipped_cost) / elapsed
        words.append(f"eta {duration((self.total_cost - self.cost) / pace) if pace > 0 else '?'}")
        return "  ".join(words)

    def verdict(self, available: float, device: str = "") -> str:
        """One line at the end: how long it took and what it was waiting for.

        Args:
            available: seconds that workers were there for.
            device: where the phase `encode` ran; "": not worth saying.
        """
        elapsed = time.monotonic() - self._start
        done = self.done - self._skipped
        rates = f"{short(done / max(elapsed, 1e-9))}/s"
        if self.tokens:
            rates += f", {short(self.tokens / max(elapsed, 1e-9))} tokens/s"
        text = f"{self.title}: {count(done, self.unit)} in {duration(elapsed)} ({rates})"
        share = self.busy / max(available, self.busy, 1e-9)
        known = {name: seconds / max(self.busy, 1e-9) for name, seconds in self.phases.items()}
        parts = [f"{name} {part:.0%}" for name, part in sorted(known.items(), key=lambda kv: -kv[1]) if part >= 0.005]
        busy = f"workers busy {share:.0%}{': ' + ', '.join(parts) if parts else ''}"
        if device:
            busy += f"; {device} busy {self.phases['encode'] / max(available, self.busy, 1e-9):.0%}"
        if share < 0.5:
            return f"{text}; bottleneck: too little work for the workers, or a slow start ({busy})"
        if not parts:
            return f"{text}; {busy}"
        return f"{text}; bottleneck: {max(known, key=lambda name: known[name])} ({busy})"

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


def _listed(rejects: Mapping[str, int]) -> str:
    if not rejects:
        return ""
    return f" ({', '.join(f'{reason} {number}' for reason, number in sorted(rejects.items()))})"


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
