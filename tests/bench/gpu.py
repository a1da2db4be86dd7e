"""What the two GPU benches share: sections that fail and time out alone, timing by CUDA events, tables and JSON.

A section is a function that reports rows. On a GPU each runs in a process of its own, so that one that hangs, runs out
of memory or breaks the device takes nothing else with it, and keeps the rows it had reported. Needs torch only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
_LEAST_SECONDS = 10.0
"""With less time left than this, a section is not begun."""


class Bench:
    """What a section works with.

    Args:
        options: of the command line.
        rows: file that rows are appended to.
    """

    def __init__(self, options: argparse.Namespace, rows: Path) -> None:
        self.device = torch.device(options.device)
        self.tiny: bool = options.tiny
        self.compile: bool = options.compile
        self.cuda = self.device.type == "cuda"
        self._rows, self._seconds = rows, 1.0 if options.tiny else 6.0

    def report(self, name: str, **values: Any) -> None:
        """Adds a row to the section's table."""
        with self._rows.open("a") as stream:
            stream.write(json.dumps({"name": name, **values}) + "\n")

    def check(self, name: str, found: float, bound: float) -> None:
        """Adds a row of something that may not exceed a bound; the script fails if it does."""
        self.report(name, found=found, bound=bound, ok=bool(found <= bound))

    def milliseconds(self, work: Callable[[], Any], rounds: int = 20) -> float:
        """Median time of one call; fewer rounds where they take long."""
        for _ in range(1 if self.tiny else 3):
            once = self._once(work, 1)
        # On a GPU short work is timed several times over: else its start would be, rather than the work.
        calls = max(1, int(5 / max(once, 1e-3))) if self.cuda else 1
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < rounds and (len(times) < 3 or time.perf_counter() - begin < self._seconds):
            times.append(self._once(work, calls))
        return statistics.median(times)

    def _once(self, work: Callable[[], Any], calls: int) -> float:
        if not self.cuda:
            begin = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - begin)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls

    def peak_mib(self, work: Callable[[], Any]) -> float | None:
        """Memory that one call takes on the GPU beyond what is held before it; None on a CPU."""
        if not self.cuda:
            return None
        self.free()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def compare(self, works: Mapping[str, Callable[[], Any]], *, units: int = 0, unit: str = "", **values: Any) -> None:
        """A row with time and peak memory of every contender's work."""
        found: dict[str, float] = {}
        for name, work in works.items():
            try:
                ms = self.milliseconds(work)
                peak = self.peak_mib(work)
            except Exception as error:
                self.excuse(name, error)
                continue
            row = {**values, "ms": ms, "peak MiB": peak} | ({unit: units / ms * 1e3} if unit else {})
            found[name] = ms
            self.report(name, **row, **_against({other: found[other] / ms for other in found if other != name}))

    def race(
        self,
        contenders: Mapping[str, Callable[[int], Callable[[], Any]]],
        batch: int,
        *,
        units: int = 1,
        unit: str,
        share_of_peak: float | None = None,
    ) -> None:
        """Training steps, a contender after the other, each with the largest batch that fits.

        Args:
            contenders: from a batch size to a step on such a batch, with a model of its own.
            batch: the largest to try.
            units: in an element of the batch.
            unit: what they are called.
            share_of_peak: what of the device's peak one unit a second takes, for MFU; None: not known.
        """
        rates: dict[str, float] = {}
        for name, make in contenders.items():
            work: Callable[[], Any] | None = None  # the last one's model goes, also where it failed
            self.free()
            try:
                size, work = self.largest(batch, make)
                ms = self.milliseconds(work)
            except Exception as error:
                self.excuse(name, error)
                continue
            rate = rates[name] = size * units / ms * 1e3
            mfu = {} if share_of_peak is None else {"MFU %": 100 * rate * share_of_peak}
            others = {other: rate / rates[other] for other in rates if other != name}
            self.report(name, batch=size, ms=ms, **{unit: rate, "peak GiB": self.held_gib()}, **mfu, **_against(others))

    def excuse(self, name: str, error: Exception) -> None:
        """A row for a contender that failed: the others run all the same."""
        traceback.print_exc()
        self.report(name, error=f"{type(error).__name__}: {str(error)[:200]}", ok=False)

    def held_gib(self) -> float | None:
        """The most memory held since the last `free`; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None

    def free(self) -> None:
        """Gives back what nobody holds, and counts peaks anew."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def largest(self, batch: int, make: Callable[[int], Callable[[], Any]]) -> tuple[int, Callable[[], Any]]:
        """The largest batch (this one, a half, a quarter, ...) whose work fits in memory, and the work."""
        while True:
            work: Callable[[], Any] | None = None  # a batch that was too large holds nothing while the next is made
            self.free()
            try:
                work = make(batch)
                work(), work()
                return batch, work
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
            batch //= 2


class Section(NamedTuple):
    """A part of a bench.

    Attributes:
        name: one word.
        seconds: its share of the time: what is left when it begins is shared out in this proportion among it and the
            sections after it, so that a long one cuts no other.
        work: reports rows.
    """

    name: str
    seconds: float
    work: Callable[[Bench], None]


def main(title: str, sections: Sequence[Section]) -> None:
    """The command line of a bench. Exit code 1 if a section failed or a check did."""
    options = _options(title, sections)
    if options.child:
        section = next(section for section in sections if section.name == options.only[0])
        section.work(Bench(options, options.rows))
        return
    deadline = time.perf_counter() + options.seconds
    figures: dict[str, Any] = {"machine": _machine(options), "sections": {}}
    print(json.dumps(figures["machine"]))
    chosen = [section for section in sections if section.name in options.only]
    for number, section in enumerate(chosen):
        begin = time.perf_counter()
        share = section.seconds / sum(other.seconds for other in chosen[number:])
        rows, error = _run(section, options, share * (deadline - begin - 2))
        found = {"rows": rows, "error": error, "seconds": round(time.perf_counter() - begin, 1)}
        figures["sections"][section.name] = found
        print(f"\n## {section.name} ({found['seconds']} s)\n{table(rows)}" + (f"\nerror: {error}" if error else ""))
        sys.stdout.flush()
        if options.out:
            options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print("\n" + json.dumps(figures))
    bad = [name for name, found in figures["sections"].items() if found["error"] or not _sound(found["rows"])]
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown, with a column for every value that any has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else "nothing"


def _sound(rows: Sequence[Row]) -> bool:
    return all(row.get("ok", True) for row in rows)


def _against(ratios: Mapping[str, float]) -> Row:
    """How many times as fast as each of the seeds."""
    return {f"times {other}": ratio for other, ratio in ratios.items() if other.startswith("seed")}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _run(section: Section, options: argparse.Namespace, seconds: float) -> tuple[list[Row], str | None]:
    """The rows of a section that may take so long, and what went wrong."""
    if seconds < _LEAST_SECONDS:
        return [], "no time was left"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.touch()
        error = _apart(section, options, path, seconds) if options.isolate else _here(section, options, path)
        return [json.loads(line) for line in path.read_text().splitlines()], error


def _here(section: Section, options: argparse.Namespace, path: Path) -> str | None:
    try:
        section.work(Bench(options, path))
    except Exception as error:  # the other sections go on
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _apart(section: Section, options: argparse.Namespace, path: Path, seconds: float) -> str | None:
    command = [sys.executable, sys.argv[0], "--child", f"--only={section.name}", f"--rows={path}"]
    command += [f"--device={options.device}", "--compile" if options.compile else "--no-compile"]
    command += ["--tiny"] if options.tiny else []
    # A group of its own: compilers that it started end with it.
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return f"stopped after {seconds:.0f} s"
    return None if code == 0 else f"exit code {code}, see above"


def _options(title: str, sections: Sequence[Section]) -> argparse.Namespace:
    names = [section.name for section in sections]
    parser = argparse.ArgumentParser(description=title, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small models, to see that the script runs")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=f"some of {','.join(names)}")
    parser.add_argument("--seconds", type=float, default=540, help="for everything")
    parser.add_argument("--out", type=Path, help="JSON with all figures, written after every section")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile; else on a GPU only")
    parser.add_argument("--isolate", action=argparse.BooleanOptionalAction, help="a process a section; as --compile")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.only) - set(names)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in ("compile", "isolate"):
        if getattr(options, name) is None:
            setattr(options, name, options.device == "cuda")
    return options


def _machine(options: argparse.Namespace) -> Row:
    cuda = options.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "tiny": options.tiny,
        "compile": options.compile,
    }
