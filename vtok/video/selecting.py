"""The expression by which the ffmpeg program's `select` filter lets wanted frames through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_MAX_TERMS = 64  # of the expression, which is evaluated for every frame


class Selection(NamedTuple):
    """What to let through.

    Attributes:
        passing: positions of the frames that come through, ascending, as far as the last wanted one; with the wanted
            ones others may come.
        expression: for the filter.
    """

    passing: Sequence[int]
    expression: str


def select(wanted: Sequence[int], marks: Sequence[int], variable: str) -> Selection:
    """Lets wanted frames through: runs of equal steps, or else one whole stretch.

    Args:
        wanted: ascending positions of frames in the order in which they come.
        marks: of every frame, what the filter knows it by; no two alike, any integers, in any order.
        variable: the filter's name for the mark: `pts`, or `n` for the count.
    """
    rising = isinstance(marks, range) or all(map(int.__lt__, marks, marks[1:]))
    passing: set[int] = set()
    terms: list[str] = []
    for first, last, step in _runs(wanted):
        run, term = _term(first, last, step, marks, variable) if rising else _range(first, last, marks, variable)
        passing.update(run)
        terms.append(term)
    if len(terms) > _MAX_TERMS:
        found, term = _range(wanted[0], wanted[-1], marks, variable)
        passing, terms = set(found), [term]
    return Selection(sorted(position for position in passing if position <= wanted[-1]), "+".join(terms))


def _runs(wanted: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, step) of runs of equal steps."""
    start = 0
    while start < len(wanted):
        step = wanted[start + 1] - wanted[start] if start + 1 < len(wanted) else 1
        end = start
        while end + 1 < len(wanted) and wanted[end + 1] - wanted[end] == step:
            end += 1
        yield wanted[start], wanted[end], step
        start = end + 1


def _term(first: int, last: int, step: int, marks: Sequence[int], variable: str) -> tuple[Sequence[int], str]:
    """A run among rising marks: exactly its frames if they are evenly spaced, else all from the first to the last."""
    term, begin = f"between({variable},{marks[first]},{marks[last]})", marks[first]
    gap, run = marks[min(first + step, last)] - begin, range(first, last + 1, step)
    if step == 1 or not gap:
        return run, term
    if [i for i in range(first, last + 1) if (marks[i] - begin) % gap == 0] == list(run):
        return run, f"{term}*not(mod({variable}-({begin}),{gap}))"
    return range(first, last + 1), term


def _range(first: int, last: int, marks: Sequence[int], variable: str) -> tuple[Sequence[int], str]:
    """All frames with marks between the lowest and the highest of a run."""
    low, high = min(marks[first : last + 1]), max(marks[first : last + 1])
    every = np.asarray(marks)
    found: list[int] = np.flatnonzero((every >= low) & (every <= high)).tolist()
    return found, f"between({variable},{low},{high})"
