"""The order of the clips: a pure function of (seed, epoch, position).

For an epoch the shards are permuted, taken a few at a time, and the clips of such a window are permuted together. So a
reader needs few files at a time, and the clip at any position is found without a look at the ones before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from vtok.seeds import derive

WINDOW_SHARDS = 4


class Place(NamedTuple):
    """Where a clip lies: the number of its shard, and its own number within the shard."""

    shard: int
    clip: int


class EpochOrder:
    """Where the clip of each position of one epoch lies.

    Args:
        rows: clips in every shard, none empty.
        seed: of the order.
        epoch: from 0.
        shuffle: off: store order, the same in every epoch.
    """

    def __init__(self, rows: Sequence[int], *, seed: int, epoch: int, shuffle: bool) -> None:
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle
        self._shards = np.arange(len(rows))
        if shuffle:
            self._shards = np.random.default_rng(derive(seed, "shards", epoch)).permutation(len(rows))
        self._ends = np.cumsum(np.asarray(rows, dtype=np.int64)[self._shards])
        self._windows: dict[int, Int64[np.ndarray, " n"]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, position: int) -> Place:
        """Where the clip at `position` (0 to len - 1) lies."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        if self._shuffle:
            window = index // WINDOW_SHARDS
            first = window * WINDOW_SHARDS
            start = self._start(first)
            position = start + int(self._permutation(window)[position - start])
            inside = self._ends[first : first + WINDOW_SHARDS]
            index = first + int(np.searchsorted(inside, position, side="right"))
        return Place(int(self._shards[index]), position - self._start(index))

    def places(self, start: int, stop: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """`place` of the positions start .. stop-1: shards, and clips within them."""
        positions = np.arange(start, stop)
        index = np.searchsorted(self._ends, positions, side="right")
        if self._shuffle:
            for window in np.unique(index // WINDOW_SHARDS).tolist():
                own = index // WINDOW_SHARDS == window
                begin = self._start(window * WINDOW_SHARDS)
                positions[own] = begin + self._permutation(window)[positions[own] - begin]
            index = np.searchsorted(self._ends, positions, side="right")
        before = np.concatenate([np.zeros(1, np.int64), self._ends])
        return self._shards[index], positions - before[index]

    def _start(self, index: int) -> int:
        return int(self._ends[index - 1]) if index else 0

    def _permutation(self, window: int) -> Int64[np.ndarray, " n"]:
        """The permutation of a window's clips; the last two are kept, as a batch may lie across a border."""
        if window not in self._windows:
            last = min((window + 1) * WINDOW_SHARDS, len(self._shards)) - 1
            count = int(self._ends[last]) - self._start(window * WINDOW_SHARDS)
            random = np.random.default_rng(derive(self._seed, "shards", self._epoch, window))
            if len(self._windows) == 2:
                del self._windows[next(iter(self._windows))]
            self._windows[window] = random.permutation(count)
        return self._windows[window]
