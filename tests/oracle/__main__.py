"""`python -m tests.oracle --seed N --files M [--keep DIR] [--build CHECKOUT] [--python PROGRAM] [--only K]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

from tests.oracle.draw import draw
from tests.oracle.drive import ROOT, Found, bench, examine


def main() -> int:
    """Draws files, drives vtok over them, prints a table of faults; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--only", type=int, help="one file, by its number")
    parser.add_argument("--keep", type=Path, help="folder to keep the files of faults in")
    parser.add_argument("--build", type=Path, default=ROOT, help="the checkout whose vtok is tried")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs vtok")
    options = parser.parse_args()
    numbers = range(options.files) if options.only is None else [options.only]
    found: list[tuple[int, Found]] = []
    unmade: list[tuple[int, str]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="oracle-") as name, bench(options.build, options.python) as machine:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            try:
                case = draw(options.seed, number, folder)
            except Exception as error:
                unmade.append((number, f"{error!r} {traceback.format_exc().splitlines()[-3].strip()}"))
                continue
            faults = examine(case, machine)
            found += [(number, item) for item in faults]
            if not faults and options.only is None:
                case.path.unlink()
        print(f"{len(numbers)} files, {machine.jobs} decodings, twice each, in {time.monotonic() - began:.0f} s")
    _table(options.seed, found)
    for number, why in unmade:
        print(f"could not be made: {number}: {why}")
    return 1 if found or unmade else 0


def _table(seed: int, found: list[tuple[int, Found]]) -> None:
    kinds: dict[str, list[tuple[int, Found]]] = defaultdict(list)
    for number, item in found:
        kinds[item.fault.kind].append((number, item))
    for kind, items in sorted(kinds.items(), key=lambda pair: -len({number for number, _ in pair[1]})):
        files = dict.fromkeys(number for number, _ in items)
        print(f"\n{kind}: {len(files)} files")
        for number in list(files)[:12]:
            first = next(item for n, item in items if n == number)
            print(f"  {number}: {first.case.name}\n      {first.how}: {first.fault.detail}")
        print(f"  again: python -m tests.oracle --seed {seed} --only {next(iter(files))} --keep /tmp/oracle")


if __name__ == "__main__":
    sys.exit(main())
