"""The most frequent runs of codes, counted in bounded memory.

A codebook of K codes has K^2 pairs and K^3 triples, too many to count each. A summary keeps the counts of at most
`capacity` of them (Misra and Gries, "Finding repeated elements", 1982, in the mergeable form of Agarwal et al.,
"Mergeable summaries", PODS 2012): when there are more, the smallest count that must go is taken off all of them. So a
count is never too high, and too low by at most `error`, which is at most total / (capacity + 1). While all different
runs fit, `error` is 0 and every count is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt64

LARGEST_CODEBOOK = 2**21
"""Three codes of a larger codebook do not fit into the 64 bits of a key."""


class Frequent(NamedTuple):
    """A run of codes and how often it occurs: `times` to `times + error` times."""

    codes: tuple[int, ...]
    times: int
    error: int


class NGrams:
    """Counts runs of `order` codes.

    Args:
        order: codes in a run.
        codebook_size: codes are below this.
        capacity: runs whose counts are kept.

    Raises:
        ValueError: the codebook is larger than `LARGEST_CODEBOOK`.
    """

    def __init__(self, order: int, codebook_size: int, capacity: int) -> None:
        if codebook_size > LARGEST_CODEBOOK:
            raise ValueError(f"runs of codes of a codebook over {LARGEST_CODEBOOK:,} are not counted")
        self.order, self.codebook_size, self.capacity = order, codebook_size, capacity
        self.total = self.error = 0
        self._keys: UInt64[np.ndarray, " n"] = np.zeros(0, np.uint64)
        self._counts: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)
        self._waiting: list[np.ndarray] = []
        self._waits = 0

    def add(self, codes_rs: Integer[np.ndarray, "r s"]) -> None:
        """Counts the runs inside each row of codes; none goes from one row into the next."""
        length = codes_rs.shape[1] - self.order + 1
        if length <= 0 or not len(codes_rs):
            return
        keys = np.zeros((len(codes_rs), length), np.uint64)
        for offset in range(self.order):
            keys = keys * np.uint64(self.codebook_size) + codes_rs[:, offset : offset + length].astype(np.uint64)
        self.total += keys.size
        self._waiting.append(keys.reshape(-1))
        self._waits += keys.size
        if self._waits >= self.capacity:
            self._fold()

    def most(self, number: int) -> list[Frequent]:
        """The most frequent runs, by falling count, then by their codes."""
        self._fold()
        order = np.lexsort((self._keys, -self._counts))[:number]
        return [Frequent(self._codes(int(self._keys[i])), int(self._counts[i]), self.error) for i in order]

    def _fold(self) -> None:
        if not self._waiting:
            return
        keys, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting, self._waits = [], 0
        both = np.concatenate([self._keys, keys])
        order = np.argsort(both, kind="stable")
        both, values = both[order], np.concatenate([self._counts, counts])[order]
        starts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]])
        self._keys, self._counts = both[starts], np.add.reduceat(values, starts)
        if len(self._keys) > self.capacity:
            cut = int(np.partition(self._counts, -(self.capacity + 1))[-(self.capacity + 1)])
            kept = self._counts > cut
            self._keys, self._counts = self._keys[kept], self._counts[kept] - cut
            self.error += cut

    def _codes(self, key: int) -> tuple[int, ...]:
        codes = []
        for _ in range(self.order):
            key, code = divmod(key, self.codebook_size)
            codes.append(code)
        return tuple(reversed(codes))
