"""Hands out the batches of token stores, on any number of ranks and worker processes, and keeps account of them.

The batch of a step is a pure function of (stores, splits, seed, batch size, step); vtok/stepping.py hands them out and
keeps the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vtok.stepping import StepLoader
from vtok.tokens.batches import TokenBatch, TokenBatches, short_list
from vtok.tokens.coverage import Coverage, Receipt, combine
from vtok.tokens.crops import Crop
from vtok.tokens.mix_coverage import MixCoverage, MixReceipt, combine_mix
from vtok.tokens.store import TokenStore

__all__ = ["Crop", "TokenBatch", "TokenBatches", "TokenLoader", "clips_at"]


class TokenLoader(StepLoader[TokenBatch]):
    """Hands out `TokenBatches` from any position on, and knows how many it has handed out.

    Args:
        stores, splits, batch_size, options: of `TokenBatches`.
        workers: processes that read; 0: this one does, which is fast enough for most models.
        prefetch: batches that every worker makes in advance.
        pin: whether the arrays lie in page-locked memory (CUDA).

    Attributes:
        source: the batches.
        coverage: which rows of the present epoch were handed out by this process.
        finished: that of the last epoch that was finished.
    """

    def __init__(
        self,
        stores: TokenStore | Sequence[TokenStore],
        splits: str | Sequence[str],
        batch_size: int,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
        **options: Any,
    ) -> None:
        self.source: TokenBatches = TokenBatches(stores, splits, batch_size, **options)
        super().__init__(self.source, workers=workers, prefetch=prefetch, pin=pin)
        self.clips, self.batches_per_epoch = self.source.clips, self.source.per_epoch
        self.coverage: Coverage | MixCoverage | None = None
        self.finished: Coverage | MixCoverage | None = None

    def batches(self, start_step: int) -> Iterator[TokenBatch]:
        """The batches of steps start_step, start_step + 1, ... without end."""
        self.seek(start_step)
        return self.forever()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `StepLoader`; states of before may hold long lists as they are."""
        lists = {name: short_list(name, state[name]) for name in ("splits", "weights", "views") if name in state}
        super().load_state_dict({**state, **lists})

    def receipt(self, pieces: Sequence[Coverage | MixCoverage]) -> Receipt | MixReceipt:
        """What came in an epoch.

        Args:
            pieces: `finished` of all ranks, or of all pieces between interruptions.

        Raises:
            UsageError: they are not of one epoch.
        """
        if self.source.sequence.mix is not None:
            return combine_mix(self.source.sequence, [piece for piece in pieces if isinstance(piece, MixCoverage)])
        return combine([piece for piece in pieces if isinstance(piece, Coverage)])

    def _next(self) -> TokenBatch:
        step = self.step
        batch = super()._next()
        epoch = step // self.source.per_epoch
        if self.coverage is None or self.coverage.epoch != epoch or self.coverage.next_step != step:
            kind = Coverage if self.source.sequence.mix is None else MixCoverage
            self.coverage = kind(epoch, step, self.source)
        assert batch.rows_b is not None
        self.coverage.add(batch.rows_b[batch.valid_b])
        if self.step % self.source.per_epoch == 0:
            self.finished = self.coverage
        return batch


def clips_at(batches: TokenBatches, step: int, rank: int | None = None) -> list[dict[str, Any]]:
    """Which clips feed a step.

    Args:
        batches: of the training run.
        step: from 0.
        rank: one rank's share; none: the whole batch.

    Raises:
        IntegrityError: a part is damaged.
    """
    out = []
    for row in batches.rows_at(step, rank).tolist():
        store, found = batches.row(row)
        out.append({"row": row, "clip_id": found.clip_id, "view_id": found.view_id, "store": str(store.folder)})
    return out
