"""Streams a token store into training, in an order that is a pure function of (seed, epoch, position).

Row groups are visited in a random order, a window of them at a time; rows are shuffled within the window. Memory is
bounded by the window. The position is the state: nothing else is needed to go on exactly, on any number of ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from schemas.errors import UsageError
from vtok.seeds import derive
from vtok.tokens.store import TokenStore, codes_of

WINDOW_GROUPS = 64


class TokenBatch(NamedTuple):
    """One rank's share of a batch.

    Attributes:
        codes_bthw: codes.
        labels_b: class labels; -1 where a clip has none.
        valid_b: False for clips that fill up a batch and count for nothing; None: all count.
        captions: what the clips' captions say; None where a clip has none.
        boxes_b6: where the codes lie in the grid of their row: t0, t1, h0, h1, w0, w1; None: they are all of it.
        cond_frames_bthwc: the first pixel frames.
        audio_codes_bn: codes of the sounds.
    """

    codes_bthw: Int64[np.ndarray, "b t h w"]
    labels_b: Int64[np.ndarray, " b"]
    valid_b: Bool[np.ndarray, " b"] | None = None
    captions: Sequence[str | None] = ()
    boxes_b6: Int64[np.ndarray, "b 6"] | None = None
    cond_frames_bthwc: UInt8[np.ndarray, "b t h w c"] | None = None
    audio_codes_bn: Int64[np.ndarray, "b n"] | None = None


class TokenLoader:
    """Batches of a split.

    Args:
        store: the store.
        split: which clips.
        batch_size: clips in a batch, over all ranks; the clips left over at the end of an epoch are dropped from it.
        seed: of the order.
        rank, world: this process's share: every rank gets batch_size / world clips of every batch.

    Raises:
        UsageError: the split has fewer clips than a batch, or the batch does not divide by the ranks.
    """

    def __init__(
        self, store: TokenStore, split: str, batch_size: int, *, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.rank, self.world = rank, world
        self.groups = store.row_groups(split)
        self.clips = sum(group.rows for group in self.groups)
        self.batches_per_epoch = self.clips // batch_size
        if not self.batches_per_epoch:
            raise UsageError(
                f"split {split!r} has {self.clips} clips: fewer than one batch of {batch_size}",
                at=str(store.folder),
                hint="lower prior.train.batch_size or tokenize more videos",
            )
        if batch_size % world:
            raise UsageError(f"a batch of {batch_size} does not divide by {world} ranks", hint="change batch_size")

    def batches(self, start_step: int) -> Iterator[TokenBatch]:
        """The batches of steps start_step, start_step + 1, ... without end."""
        share = self.batch_size // self.world
        first = self.rank * share
        for epoch in itertools.count(start_step // self.batches_per_epoch):
            start = start_step % self.batches_per_epoch if epoch == start_step // self.batches_per_epoch else 0
            rows = self._rows(epoch, start * self.batch_size)
            for _ in range(start, self.batches_per_epoch):
                batch = list(itertools.islice(rows, self.batch_size))[first : first + share]
                yield TokenBatch(
                    np.stack([codes for codes, _, _ in batch]).astype(np.int64).reshape(share, *self.store.grid),
                    np.array([label for _, label, _ in batch], dtype=np.int64),
                    captions=[caption for _, _, caption in batch],
                )

    def _rows(self, epoch: int, skip: int) -> Iterator[tuple[np.ndarray, int, str | None]]:
        """The rows of an epoch from position `skip`; windows that lie wholly before it are not read."""
        random = np.random.default_rng(derive(self.seed, "tokens", epoch))
        order = random.permutation(len(self.groups))
        for window, start in enumerate(range(0, len(order), WINDOW_GROUPS)):
            groups = [self.groups[i] for i in order[start : start + WINDOW_GROUPS]]
            rows = sum(group.rows for group in groups)
            if skip >= rows:
                skip -= rows
                continue
            tables = [self.store.read(group, ["codes", "label", "caption"]) for group in groups]
            codes = np.concatenate([codes_of(table) for table in tables])
            labels = [-1 if label is None else label for table in tables for label in table["label"].to_pylist()]
            captions = [caption for table in tables for caption in table["caption"].to_pylist()]
            inside = np.random.default_rng(derive(self.seed, "tokens", epoch, window)).permutation(rows)
            for index in inside[skip:]:
                yield codes[index], labels[index], captions[index]
            skip = 0
