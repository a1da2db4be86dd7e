"""Which store each position of a mix draws from, by weight, and how often that store was drawn from before.

Of every 1,024 positions each store gets its share, in a shuffled order. So both answers are a pure function of (seed,
position), at any position, and the shares are exact over every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from schemas.errors import UsageError
from vtok.seeds import derive
from vtok.tokens.order import keyed

BLOCK = 1024


class Draws(NamedTuple):
    """What some positions draw.

    Attributes:
        stores: which store.
        turns: how many times that store was drawn from before.
    """

    stores: Int64[np.ndarray, " n"]
    turns: Int64[np.ndarray, " n"]


class Mix:
    """A mix of stores.

    Args:
        weights: of each store, positive, of any sum.
        seed: of the order.

    Raises:
        UsageError: a weight is not positive, or so small that it comes to no position in a block.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        values = np.asarray(weights, dtype=np.float64)
        if not np.isfinite(values).all() or (values <= 0).any():
            raise UsageError(f"weights must be positive, not {list(weights)}")
        exact = values / values.sum() * BLOCK
        self.quota = np.floor(exact).astype(np.int64)
        largest = np.argsort(self.quota - exact, kind="stable")
        self.quota[largest[: BLOCK - int(self.quota.sum())]] += 1
        if (self.quota == 0).any():
            raise UsageError(
                f"weights {list(weights)} differ too much: the smallest comes to less than one clip in {BLOCK}",
                hint="raise the smallest weight, or leave the store out",
            )
        self._seed = seed
        self._blocks: dict[int, Draws] = {}

    def draws(self, start: int, stop: int) -> Draws:
        """What the positions start .. stop-1 (from 0, without end) draw."""
        numbers = range(start // BLOCK, -(-stop // BLOCK))
        blocks = [self._block(number) for number in numbers]
        part = slice(start - numbers[0] * BLOCK, stop - numbers[0] * BLOCK)
        stores, turns = (np.concatenate(columns)[part] for columns in zip(*blocks, strict=True))
        return Draws(stores, turns)

    def drawn(self, position: int) -> Int64[np.ndarray, " stores"]:
        """How often each store is drawn from before a position."""
        number, inside = divmod(position, BLOCK)
        return number * self.quota + np.bincount(self._block(number).stores[:inside], minlength=len(self.quota))

    def _block(self, number: int) -> Draws:
        if number not in self._blocks:
            if len(self._blocks) == 2:
                del self._blocks[next(iter(self._blocks))]
            unshuffled = np.repeat(np.arange(len(self.quota)), self.quota)
            stores = unshuffled[np.argsort(keyed(derive(self._seed, "token mix", number), np.arange(BLOCK)))]
            turns = np.empty(BLOCK, np.int64)
            for store, quota in enumerate(self.quota):
                turns[stores == store] = number * quota + np.arange(quota)
            self._blocks[number] = Draws(stores, turns)
        return self._blocks[number]
