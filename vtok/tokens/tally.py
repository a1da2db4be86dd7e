"""Rows that were handed out, counted while they are: what a receipt of an epoch is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from vtok.tokens.order import keyed

if TYPE_CHECKING:
    from vtok.tokens.batches import TokenBatches

WORD = 1 << 64
"""Digests are numbers below this."""
_TOGETHER = 256


def digest_of(rows: Int64[np.ndarray, " n"]) -> int:
    """The sum of the rows' hashes, modulo 2^64: the same in every order, and another one if a row is lost or twice."""
    return int(keyed(0, rows).sum(dtype=np.uint64)) if len(rows) else 0


class Tally:
    """What one rank was handed out of one epoch; how its rows are kept is up to the classes made of it.

    Args:
        epoch: which.
        first_step: the first step that is counted here.
        batches: what is handed out.

    Attributes:
        next_step: the first step that is not.
    """

    def __init__(self, epoch: int, first_step: int, batches: TokenBatches) -> None:
        self.epoch, self.first_step, self.next_step, self.per_epoch = epoch, first_step, first_step, batches.per_epoch
        self._later: list[Int64[np.ndarray, " n"]] = []
        self._clips = self._digest = 0

    def add(self, rows: Int64[np.ndarray, " n"]) -> None:
        """Counts the rows of the next step."""
        self.next_step += 1
        self._later.append(rows)
        if len(self._later) == _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        """Counts many steps at once: numpy's cost a call is shared by them."""
        if self._later:
            rows = np.concatenate(self._later)
            self._later = []
            self._mark(rows)
            self._clips += len(rows)
            self._digest = (self._digest + digest_of(rows)) % WORD

    def _mark(self, rows: Int64[np.ndarray, " n"]) -> None:
        """Keeps some rows."""
        raise NotImplementedError

    @property
    def clips(self) -> int:
        """Rows that were handed out."""
        self._settle()
        return self._clips

    @property
    def digest(self) -> int:
        """`digest_of` them."""
        self._settle()
        return self._digest

    def receipt(self) -> dict[str, Any]:
        """A few integers for a log."""
        return {name: getattr(self, name) for name in ("epoch", "first_step", "next_step", "clips", "digest")}
