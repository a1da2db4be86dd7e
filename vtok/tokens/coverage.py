"""Which rows of an epoch were handed out: a receipt that each came exactly once, or a list of those that did not.

Each rank marks its rows in one byte a row, and sums up a digest that does not depend on the order. Together they are
combined: no row may be marked on two ranks. The digest is an integer that can be logged, kept and added up by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64

from schemas.errors import UsageError
from vtok.tokens.tally import WORD, Tally, digest_of

if TYPE_CHECKING:
    from vtok.tokens.batches import TokenBatches

_CHUNK = 1 << 20


class Coverage(Tally):
    """What one rank was handed out of one epoch.

    Args:
        epoch, first_step, batches: as `Tally` has them.

    Attributes:
        before: rows of the epoch that came in its earlier steps.
    """

    def __init__(self, epoch: int, first_step: int, batches: TokenBatches) -> None:
        super().__init__(epoch, first_step, batches)
        self.total, self.dropped = batches.clips, batches.dropped
        self.before = first_step % batches.per_epoch * batches.batch_size
        self._repeated: list[int] = []
        self._seen = np.zeros(batches.clips, np.bool_)

    def _mark(self, rows: Int64[np.ndarray, " n"]) -> None:
        once, counts = np.unique(rows, return_counts=True)
        again = once[(counts > 1) | self._seen[once]]
        self._repeated += again[: 1000 - len(self._repeated)].tolist()
        self._seen[rows] = True

    @property
    def repeated(self) -> list[int]:
        """Rows that were handed out more than once, at most 1,000 of them."""
        self._settle()
        return self._repeated

    @property
    def seen(self) -> Bool[np.ndarray, " n"]:
        """Whether each row was handed out."""
        self._settle()
        return self._seen


@dataclass(frozen=True)
class Receipt:
    """What all ranks were handed out of an epoch, together.

    Attributes:
        epoch: which.
        total: rows that there are.
        once: rows that came exactly once.
        dropped: rows that the epoch leaves out because they fill no batch.
        before: rows that came in its earlier steps, which are not counted, as after an interruption.
        missing, repeated: the first thousand rows that did not come, or came more than once; with `dropped`, as many
            are missing as are left out; what is missing is not known where `before` is not 0.
        digest: of all rows that came.
    """

    epoch: int
    total: int
    once: int
    dropped: int
    before: int
    missing: list[int]
    repeated: list[int]
    digest: int

    @property
    def sound(self) -> bool:
        """Every row came exactly once, but for those that the epoch leaves out."""
        return not self.repeated and self.once == self.total - self.dropped - self.before

    def row(self) -> dict[str, Any]:
        """For a log: JSON-compatible."""
        names = ("epoch", "total", "once", "dropped", "before", "sound")
        return {**{name: getattr(self, name) for name in names}, "digest": f"{self.digest:016x}"}

    def __str__(self) -> str:
        text = f"epoch {self.epoch}: {self.once} of {self.total} clips seen exactly once"
        if self.before:
            text += f", {self.before} before this run went on"
        if self.dropped:
            text += f", {self.dropped} left out because they fill no batch"
        if self.sound:
            return text
        return f"{text}; rows missing: {self.missing[:10]}; rows seen more than once: {self.repeated[:10]}"


def combine(ranks: Sequence[Coverage]) -> Receipt:
    """The receipt of an epoch from what each rank (or each piece between two interruptions) was handed out.

    Raises:
        UsageError: they are not of one epoch.
    """
    if len({(one.epoch, one.total, one.dropped) for one in ranks}) != 1:
        raise UsageError("the pieces are not all of one epoch of the same rows")
    first = ranks[0]
    seen, twice = np.zeros(first.total, np.bool_), np.zeros(first.total, np.bool_)
    for one in ranks:
        twice |= seen & one.seen
        twice[one.repeated] = True
        seen |= one.seen
    before = min(one.before for one in ranks)
    missing = [] if before else np.flatnonzero(~seen)[:1000].tolist()
    repeated, digest = np.flatnonzero(twice)[:1000].tolist(), sum(one.digest for one in ranks) % WORD
    once = int((seen & ~twice).sum())
    return Receipt(first.epoch, first.total, once, first.dropped, before, missing, repeated, digest)


def whole_digest(rows: int) -> int:
    """`digest_of` the rows 0 .. rows-1, in bounded memory."""
    return sum(digest_of(np.arange(at, min(at + _CHUNK, rows))) for at in range(0, rows, _CHUNK)) % WORD
