"""Which rows an epoch of a mix handed out: a receipt that it was what the weights say, or a list of the rows that were
not drawn as often as planned.

A mix has no epoch in which every row comes once: each store is gone through in epochs of its own. What each of them
owes between two steps follows from how often it was drawn from before each (`RowSequence.owed`), which is worked out
without the batches themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from schemas.errors import UsageError
from vtok.tokens.sequence import RowSequence
from vtok.tokens.tally import WORD, Tally

if TYPE_CHECKING:
    from vtok.tokens.batches import TokenBatches


class MixCoverage(Tally):
    """What one rank was handed out of one epoch of a mix.

    Args:
        epoch, first_step, batches: as `Tally` has them.
    """

    def __init__(self, epoch: int, first_step: int, batches: TokenBatches) -> None:
        super().__init__(epoch, first_step, batches)
        self._times = np.zeros(batches.clips, np.uint32)

    def _mark(self, rows: Int64[np.ndarray, " n"]) -> None:
        np.add.at(self._times, rows, np.uint32(1))

    @property
    def times(self) -> Int64[np.ndarray, " n"]:
        """How often each row was handed out."""
        self._settle()
        return self._times.astype(np.int64)


class Share(NamedTuple):
    """What came of one store.

    Attributes:
        rows: that it has.
        draws: that came of it.
        least, most: times that a row of it came.
    """

    rows: int
    draws: int
    least: int
    most: int


@dataclass(frozen=True)
class MixReceipt:
    """What all ranks were handed out of an epoch of a mix, together.

    Attributes:
        epoch: which.
        since: its steps that came before (and are not counted), after an interruption.
        draws: that came.
        owed: that the weights ask for.
        shares: of each store.
        missing, repeated: the first thousand rows that came less or more often than they are owed.
        digest: of all draws that came.
    """

    epoch: int
    since: int
    draws: int
    owed: int
    shares: list[Share]
    missing: list[int]
    repeated: list[int]
    digest: int

    @property
    def sound(self) -> bool:
        """Every row came exactly as often as it is owed."""
        return not self.missing and not self.repeated

    def row(self) -> dict[str, Any]:
        """For a log: JSON-compatible."""
        names = ("epoch", "since", "draws", "owed", "sound")
        shares = [share._asdict() for share in self.shares]
        return {**{name: getattr(self, name) for name in names}, "stores": shares, "digest": f"{self.digest:016x}"}

    def __str__(self) -> str:
        since = f" since its step {self.since}" if self.since else ""
        stores = "; ".join(
            f"store {number}: {share.draws} of {share.rows} clips, each {share.least} to {share.most} times"
            for number, share in enumerate(self.shares, 1)
        )
        text = f"epoch {self.epoch} of the mix{since}: {self.draws} clips drawn where {self.owed} are owed ({stores})"
        if self.sound:
            return text
        return f"{text}; rows drawn too rarely: {self.missing[:10]}; rows drawn too often: {self.repeated[:10]}"


def combine_mix(sequence: RowSequence, ranks: Sequence[MixCoverage]) -> MixReceipt:
    """The receipt of an epoch from what each rank (or each piece between two interruptions) was handed out.

    Args:
        sequence: of the batches: `TokenBatches.sequence`.
        ranks: the pieces.

    Raises:
        UsageError: they are not of one epoch.
    """
    if len({(one.epoch, one.per_epoch, len(one.times)) for one in ranks}) != 1:
        raise UsageError("the pieces are not all of one epoch of the same rows")
    epoch, first = ranks[0].epoch, min(one.first_step for one in ranks)
    owed = sequence.owed(first, max(one.next_step for one in ranks))
    times = np.sum([one.times for one in ranks], axis=0)
    shares, start = [], 0
    for own in owed:
        came = times[start : start + len(own)]
        shares.append(Share(len(own), int(came.sum()), int(came.min()), int(came.max())))
        start += len(own)
    planned = np.concatenate(owed)
    return MixReceipt(
        epoch,
        first - epoch * ranks[0].per_epoch,
        int(times.sum()),
        int(planned.sum()),
        shares,
        np.flatnonzero(times < planned)[:1000].tolist(),
        np.flatnonzero(times > planned)[:1000].tolist(),
        sum(one.digest for one in ranks) % WORD,
    )
