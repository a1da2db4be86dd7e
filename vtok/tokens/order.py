"""The order of the rows: a bijection of 0 .. n-1 that any position can be put through without a look at the others.

Up to 65,536 rows, the numbers are sorted by a keyed hash: any permutation can come out. Above, a Feistel network whose
domain is the next power of four is walked until it lands inside (cycle walking: Black and Rogaway, "Ciphers with
arbitrary finite domains", CT-RSA 2002), so that nothing grows with n. Neither depends on a library's generator: the
order is the same with every version of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from vtok.seeds import derive
from vtok.shards.order import EpochOrder

SORTED_ROWS = 1 << 16
BLOCK = 1 << 12
"""Positions that are put through at a time: numpy's cost a call is shared by many batches."""
_ROUNDS = 6


def mix(values: UInt64[np.ndarray, ...]) -> UInt64[np.ndarray, ...]:
    """A hash of 64-bit numbers: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keyed(key: int, numbers: Int64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """A random 64-bit number for each number, from a key of 63 bits."""
    return mix(mix(numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(key))


class RowOrder:
    """The row at each position of one epoch.

    Args:
        rows: how many there are.
        seed: of the order.
        epoch: from 0.
        shuffle: off: row p is at position p.
    """

    def __init__(self, rows: int, *, seed: int, epoch: int, shuffle: bool = True) -> None:
        self.rows = rows
        self._shuffle = shuffle
        self._keys = [derive(seed, "token rows", epoch, number) for number in range(_ROUNDS)]
        self._half = np.uint64(max(1, (max(rows - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._sorted: Int64[np.ndarray, " n"] | None = None
        self._blocks: dict[int, Int64[np.ndarray, " b"]] = {}

    def __call__(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """The rows at the positions start .. stop-1 (0 <= start <= stop <= rows)."""
        if not self._shuffle:
            return np.arange(start, stop, dtype=np.int64)
        if self.rows <= SORTED_ROWS:
            if self._sorted is None:
                self._sorted = np.argsort(keyed(self._keys[0], np.arange(self.rows)), kind="stable")
            return self._sorted[start:stop]
        blocks = [self._block(number) for number in range(start // BLOCK, -(-stop // BLOCK))]
        first = start // BLOCK * BLOCK
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks))[start - first : stop - first]

    def _block(self, number: int) -> Int64[np.ndarray, " b"]:
        """The rows of one block; the last two are kept, as a batch may lie across a border."""
        if number not in self._blocks:
            if len(self._blocks) == 2:
                del self._blocks[next(iter(self._blocks))]
            values = np.arange(number * BLOCK, min((number + 1) * BLOCK, self.rows), dtype=np.uint64)
            outside = np.arange(len(values))
            while len(outside):  # on average at most four rounds: the domain is less than four times the rows
                values[outside] = self._feistel(values[outside])
                outside = outside[values[outside] >= self.rows]
            self._blocks[number] = values.astype(np.int64)
        return self._blocks[number]

    def _feistel(self, values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ np.uint64(key)) & self._mask)
        return (left << self._half) | right


class PartsOrder:
    """The rows of an epoch in the order of vtok/shards/order.py: parts are shuffled, then the rows of a few parts
    together. It mixes less than `RowOrder`, and needs few parts at a time: neighbours are of one part one time in four.

    Args:
        parts: rows in every part, none empty.
        seed, epoch, shuffle: as above.
    """

    def __init__(self, parts: Sequence[int], *, seed: int, epoch: int, shuffle: bool = True) -> None:
        self._order = EpochOrder(parts, seed=seed, epoch=epoch, shuffle=shuffle)
        self._starts = np.concatenate([[0], np.cumsum(parts)])

    def __call__(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """The rows at the positions start .. stop-1."""
        parts, inside = self._order.places(start, stop)
        return self._starts[parts] + inside
