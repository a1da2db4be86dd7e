"""Which rows make up the batch of each step: a pure function of (rows, weights, seed, batch size, step)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from schemas.errors import UsageError
from vtok.seeds import derive
from vtok.tokens.mixing import Mix
from vtok.tokens.order import PartsOrder, RowOrder

Last = Literal["drop", "pad"]
"""What becomes of the rows that fill no whole batch at the end of an epoch: they are dropped from this epoch (another
shuffle drops others), or the batch is filled up with the epoch's first rows."""

Order = Literal["rows", "parts"]
"""What is shuffled: all rows, or the parts and then the rows of a few of them (for stores larger than the cache)."""


class Places(NamedTuple):
    """Some places of a batch, or (steps, places) of the batches of several steps.

    Attributes:
        rows: numbers of the rows, counted through over all parts of all stores.
        epochs: of each row; in a mix every store has its own.
        valid: false for the rows that only fill up the last batch of an epoch.
    """

    rows: Int64[np.ndarray, "*steps n"]
    epochs: Int64[np.ndarray, "*steps n"]
    valid: Bool[np.ndarray, "*steps n"]


class RowSequence:
    """The rows of every step. Epoch follows epoch without end.

    Args:
        parts: rows of every part of every store, none empty.
        batch_size: rows in a batch, over all ranks; with last="drop" there must be as many rows.
        seed, shuffle, order, last, weights: as `vtok.tokens.batches.TokenBatches` has them.

    Attributes:
        rows: in all.
        per_epoch: batches in an epoch.
        dropped: rows that every epoch leaves out.
        padded: rows that every epoch shows twice.
        mix: how positions draw from the stores; none: every row comes once an epoch.

    Raises:
        UsageError: weights that do not fit the stores.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[int]],
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        order: Order = "rows",
        last: Last = "drop",
        weights: Sequence[float] | None = None,
    ) -> None:
        self._parts, self._batch_size, self._seed, self._shuffle, self._kind = parts, batch_size, seed, shuffle, order
        self._sizes = [sum(own) for own in parts]
        self.rows = sum(self._sizes)
        self.mix = None
        if weights is not None:
            if len(weights) != len(parts):
                raise UsageError(f"{len(parts)} stores and {len(weights)} weights")
            if not all(self._sizes):
                raise UsageError(f"store {self._sizes.index(0) + 1} of the mix has no clips", hint="leave it out")
            self.mix = Mix(weights, seed=seed)
        self.per_epoch = self.rows // batch_size if last == "drop" else -(-self.rows // batch_size)
        shown = self.rows if self.mix is not None else self.per_epoch * batch_size
        self.dropped, self.padded = max(0, self.rows - shown), max(0, shown - self.rows)
        self._orders: dict[tuple[int, int], RowOrder | PartsOrder] = {}

    def places(self, step: int, first: int, count: int) -> Places:
        """The places first .. first+count-1 (count > 0) of the batch of a step."""
        return Places(*(field[0] for field in self.stretch(step, 1, first, count)))

    def stretch(self, step: int, steps: int, first: int, count: int) -> Places:
        """`places` of the steps step .. step+steps-1, a line each: numpy's cost a call is shared by them."""
        if self.mix is not None:
            drawn = self._mixed(step * self._batch_size, steps * self._batch_size)
            return Places(*(self._lines(field, first, count) for field in drawn))
        pieces = []
        end = step + steps
        while step < end:
            epoch, batch = divmod(step, self.per_epoch)
            run = min(end - step, self.per_epoch - batch)
            pieces.append(self._of_epoch(epoch, batch, run))
            step += run
        return Places(*(self._lines(np.concatenate(fields), first, count) for fields in zip(*pieces, strict=True)))

    def _lines(self, values: np.ndarray, first: int, count: int) -> np.ndarray:
        return values.reshape(-1, self._batch_size)[:, first : first + count]

    def _of_epoch(self, epoch: int, batch: int, count: int) -> Places:
        """Whole batches of one epoch."""
        order, rows = self._order(-1, epoch), []
        at, stop = batch * self._batch_size, (batch + count) * self._batch_size
        valid = np.arange(at, stop) < self.rows
        while at < stop:  # past its end, the batch is filled up with the epoch's first rows
            inside = at % self.rows
            run = min(stop - at, self.rows - inside)
            rows.append(order(inside, inside + run))
            at += run
        return Places(np.concatenate(rows), np.full(len(valid), epoch, np.int64), valid)

    def _mixed(self, start: int, count: int) -> Places:
        assert self.mix is not None
        stores, turns = self.mix.draws(start, start + count)
        rows, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        base = 0
        for store, size in enumerate(self._sizes):
            own = np.flatnonzero(stores == store)
            own_epochs, positions = np.divmod(turns[own], size)
            epochs[own] = own_epochs
            for epoch in np.unique(own_epochs).tolist():
                here = own_epochs == epoch
                at = int(positions[here][0])  # a store's turns follow one another
                rows[own[here]] = base + self._order(store, epoch)(at, at + int(here.sum()))
            base += size
        return Places(rows, epochs, np.ones(count, np.bool_))

    def owed(self, first_step: int, next_step: int) -> list[Int64[np.ndarray, " rows"]]:
        """How often a mix owes every row of each store in the steps first_step .. next_step-1."""
        assert self.mix is not None
        turns, stops = (self.mix.drawn(step * self._batch_size).tolist() for step in (first_step, next_step))
        out = []
        for store, size in enumerate(self._sizes):
            times, turn, stop = np.zeros(size, np.int64), turns[store], stops[store]
            while turn < stop:
                epoch, at = divmod(turn, size)
                run = min(size - at, stop - turn)
                if run == size:  # whole epochs of the store: every row once in each
                    times += (stop - turn) // size
                    run = (stop - turn) // size * size
                else:
                    times[self._order(store, epoch)(at, at + run)] += 1
                turn += run
            out.append(times)
        return out

    def _order(self, store: int, epoch: int) -> RowOrder | PartsOrder:
        """The order of a store's rows in an epoch; -1: of all stores'. The last two of each are kept."""
        if (store, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == store][:-1]:
                del self._orders[old]
            sizes = [rows for own in self._parts for rows in own] if store < 0 else list(self._parts[store])
            seed = self._seed if store < 0 else derive(self._seed, "token store", store)
            if self._kind == "parts":
                self._orders[store, epoch] = PartsOrder(sizes, seed=seed, epoch=epoch, shuffle=self._shuffle)
            else:
                self._orders[store, epoch] = RowOrder(sum(sizes), seed=seed, epoch=epoch, shuffle=self._shuffle)
        return self._orders[store, epoch]
