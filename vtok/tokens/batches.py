"""Batches of codes by step, of one or several token stores.

Rows are found by vtok/tokens/sequence.py and read from the node's verified cache (vtok/tokens/cache.py): nothing is
held in memory but a few offsets, and any position is reached at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from schemas.errors import UsageError
from schemas.paths import ObjectPath
from vtok.tokens.cache import CACHE_BYTES, FlatCache
from vtok.tokens.crops import Crop, crop_draws
from vtok.tokens.flat import Flags, FlatRow, PartFile, flat_row
from vtok.tokens.gather import gather
from vtok.tokens.selection import select
from vtok.tokens.sequence import Last, Order, RowSequence
from vtok.tokens.store import TokenStore

STRETCH = 1 << 12
"""Rows that are looked up at a time: numpy's cost a call is shared by many batches."""


_SHORT = 160
"""Characters of a list that a state holds as it is."""


class TokenBatch(NamedTuple):
    """One rank's share of a batch.

    Attributes:
        codes_bthw: codes.
        labels_b: class labels; -1 where a row has none.
        valid_b: false for the rows that only fill up the last batch of an epoch.
        clip_ids, view_ids: names of the rows; lists, or `vtok.tokens.gather.Texts`, which are lists that are made when
            they are looked at.
        captions: texts, likewise.
        windowed_from: likewise, the longer encoding that a row's codes were cut out of before they came into the store
            (`vtok tokenize` never does, an import may have): such codes differ from those of the window encoded alone.
            None: they are those of the row alone.
        boxes_b6: (t0, t1, h0, h1, w0, w1) in the latent grid of the row: the crop that the codes are.
        cond_frames_bthwc: the first pixel frames of the views, if they were asked for.
        audio_codes_bn: audio codes, if they were asked for.
        rows_b: numbers of the rows, counted through over the loader's stores and splits.
    """

    codes_bthw: Int64[np.ndarray, "b t h w"]
    labels_b: Int64[np.ndarray, " b"]
    valid_b: Bool[np.ndarray, " b"]
    clip_ids: Sequence[str]
    view_ids: Sequence[str]
    captions: Sequence[str | None]
    windowed_from: Sequence[str | None]
    boxes_b6: Int64[np.ndarray, "b 6"]
    cond_frames_bthwc: UInt8[np.ndarray, "b n height width 3"] | None = None
    audio_codes_bn: Int64[np.ndarray, "b n"] | None = None
    rows_b: Int64[np.ndarray, " b"] | None = None


class _Line(NamedTuple):
    """The rows of a step: `vtok.tokens.sequence.Places`, the part of each, and its number within the part."""

    rows: Int64[np.ndarray, " n"]
    epochs: Int64[np.ndarray, " n"]
    valid: Bool[np.ndarray, " n"]
    parts: list[int]
    inside: list[int]


class TokenBatches:
    """The batches of one or several splits of one or several stores by step; `batches[step]` is this rank's share.

    Args:
        stores: one, or several made by one tokenizer.
        splits: one name, or several.
        batch_size: rows in a batch, over all ranks.
        seed: of order and crops.
        rank, world: this process's share of every batch.
        shuffle: off: store order, the same in every epoch.
        order: what is shuffled.
        last: what becomes of the rows left over at the end of an epoch.
        weights: of the stores. None: every row comes once an epoch. Else each store is gone through in epochs of its
            own, as often as its weight says; an epoch of the mix is as long as all stores together, and nothing is left
            over.
        crop: what is cut out of every row.
        views: only rows of these views; none: all rows. Every part is read once, to find them. In a store of several
            grids, views of one grid need no crop.
        cond_frames, audio: whether batches have them. Frames are those of whole rows: a crop, if there is one, must be
            as large as they are.
        verify: off: neither parts nor cache are checked.
        cache: folder of the cache; none: the user's.
        cache_bytes: what it may hold.

    Attributes:
        clips: rows in all.
        shape: (t, h, w) of the codes.
        per_epoch: batches in an epoch, the same on every rank.
        dropped: rows that every epoch leaves out.
        padded: rows that every epoch shows twice.

    Raises:
        UsageError: too few rows, a batch that does not divide by the ranks, stores that do not go together, ...
    """

    work = "reads codes"

    def __init__(
        self,
        stores: TokenStore | Sequence[TokenStore],
        splits: str | Sequence[str],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        order: Order = "rows",
        last: Last = "drop",
        weights: Sequence[float] | None = None,
        crop: Crop | None = None,
        views: Sequence[str] | None = None,
        cond_frames: bool = False,
        audio: bool = False,
        verify: bool = True,
        cache: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.stores = [stores] if isinstance(stores, TokenStore) else list(stores)
        self.splits = [splits] if isinstance(splits, str) else list(splits)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.shuffle, self.order, self.last, self.crop = shuffle, order, last, crop or Crop()
        self.cond_frames, self.audio = cond_frames, audio
        self.views = None if views is None else sorted(set(views))
        self.shape = self._common()
        self._cuts = self.crop.partial and any(self._grid_of(store) != self.shape for store in self.stores)
        if cond_frames and self._cuts:
            raise UsageError("conditioning frames are those of whole rows", hint="leave out the crop or cond_frames")
        if batch_size % world:
            raise UsageError(f"a batch of {batch_size} does not divide by {world} ranks", hint="change batch_size")
        owned = [list(_parts(store, self.splits)) for store in self.stores]
        sizes = [[part.rows for part in parts] for parts in owned]
        self._picked: Integer[np.ndarray, " n"] | None = None
        if views is not None:
            chosen = [select(parts, views, verify=verify) for parts in owned]
            owned, sizes = [parts for parts, _ in chosen], [list(map(len, rows)) for _, rows in chosen]
            self._picked = np.concatenate([np.zeros(0, np.int32), *(part for _, rows in chosen for part in rows)])
        clips = sum(map(sum, sizes))
        if not clips or (last == "drop" and clips < batch_size):
            names = " + ".join(repr(split) for split in self.splits)
            names += "" if views is None else f" in the views {', '.join(self.views or [])}"
            raise UsageError(
                f"split {names} has {clips} clips: fewer than one batch of {batch_size}",
                at=self.where,
                hint="lower prior.train.batch_size or tokenize more videos",
            )
        self.sequence = RowSequence(
            sizes, batch_size, seed=seed, shuffle=shuffle, order=order, last=last, weights=weights
        )
        self.clips, self.per_epoch = self.sequence.rows, self.sequence.per_epoch
        self.dropped, self.padded = self.sequence.dropped, self.sequence.padded
        self._store_of_part = [number for number, parts in enumerate(owned) for _ in parts]
        flat = [part for parts in owned for part in parts]
        self._starts = np.concatenate([[0], np.cumsum([rows for own in sizes for rows in own], dtype=np.int64)])
        flags = Flags(verify, cond_frames, self.stores[0].codebook_size > 65_536, self._audio_size() > 65_536)
        self.cache = FlatCache(flat, flags, folder=cache, limit=cache_bytes)
        t, h, w = self.shape
        self._boxes = np.tile(np.array([0, t, 0, h, 0, w], np.int64), (batch_size // world, 1))
        self._code = flags.code
        self._whole_rows = not (self._cuts or cond_frames or audio)
        self._steps = max(1, STRETCH // batch_size)
        self._stretches: dict[int, list[_Line]] = {}
        least = self._least_bytes([sum(part.rows for part in parts) for parts in owned])
        if shuffle and order == "rows" and least > cache_bytes:
            raise UsageError(
                f"the codes take {least:,} bytes, the cache holds {cache_bytes:,}",
                at=str(self.cache.folder),
                hint="raise prior.train.cache_gb, or set prior.train.order=parts, which needs few parts at a time",
            )

    @property
    def where(self) -> str:
        """The stores' folders."""
        return ", ".join(str(store.folder) for store in self.stores)

    @property
    def spawn(self) -> bool:
        """An object store's client has threads, which a fork would lose."""
        return any(isinstance(store.folder, ObjectPath) for store in self.stores)

    def identity(self) -> dict[str, Any]:
        """What the sequence of batches depends on: at most 1 KiB as JSON, however many stores, splits and views."""
        stores = [store.card.fingerprint for store in self.stores]
        many = hashlib.sha256("/".join(stores).encode()).hexdigest()
        return {
            "stores": stores if len(stores) <= 4 else f"{len(stores)} stores {many}",
            "splits": short_list("splits", self.splits),
            "shuffle": self.shuffle,
            "order": self.order,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "last": self.last,
            "weights": None if self.sequence.mix is None else short_list("weights", self.sequence.mix.quota.tolist()),
            "crop": [self.crop.t, self.crop.h, self.crop.w, self.crop.stride],
            **({} if self.views is None else {"views": short_list("views", self.views)}),
        }

    def rows_at(self, step: int, rank: int | None = None) -> Int64[np.ndarray, " n"]:
        """The numbers of the rows of a step, of one rank or (none) of all; nothing is read."""
        share = self.batch_size // self.world
        first, count = (0, self.batch_size) if rank is None else (rank * share, share)
        return self.sequence.places(step, first, count).rows

    def row(self, number: int) -> tuple[TokenStore, FlatRow]:
        """The store and the contents of a row, by its number.

        Raises:
            IntegrityError: its part is damaged.
        """
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        inside = number - int(self._starts[part]) if self._picked is None else int(self._picked[number])
        return self.stores[self._store_of_part[part]], self.cache.row(part, inside)

    def __getitem__(self, step: int) -> TokenBatch:
        """This rank's share of the batch of a step.

        Raises:
            IntegrityError: a part is not the one that was written.
            UsageError: a row is smaller than the crop, or lacks what was asked for.
        """
        at = self._at(step)
        rows, valid = at.rows.copy(), at.valid.copy()
        records = self.cache.records(at.parts, at.inside)
        if self._whole_rows:
            whole = gather(records, self.shape, self._code)
            if whole is not None:
                codes = whole.codes_bn.reshape(-1, *self.shape)
                return TokenBatch(codes, whole.labels_b, valid, *whole[2:], self._boxes.copy(), rows_b=rows)
        found = [flat_row(record, self.cache.flags) for record in records]
        codes, boxes = self._cut(found, rows, at.epochs) if self._cuts else self._whole(found)
        return TokenBatch(
            codes,
            np.array([row.label for row in found], np.int64),
            valid,
            [row.clip_id for row in found],
            [row.view_id for row in found],
            [row.caption for row in found],
            [row.windowed_from for row in found],
            boxes,
            _stacked(found, "cond_frames_thwc") if self.cond_frames else None,
            _stacked(found, "audio_codes").astype(np.int64) if self.audio else None,
            rows,
        )

    def _at(self, step: int) -> _Line:
        """Where the rows of a step are. Many steps are looked up together; the last two stretches are kept."""
        number, line = divmod(step, self._steps)
        stretch = self._stretches.get(number)
        if stretch is None:
            if len(self._stretches) == 2:
                del self._stretches[next(iter(self._stretches))]
            share = self.batch_size // self.world
            places = self.sequence.stretch(number * self._steps, self._steps, self.rank * share, share)
            parts = np.searchsorted(self._starts, places.rows, side="right") - 1
            inside = places.rows - self._starts[parts] if self._picked is None else self._picked[places.rows]
            stretch = list(map(_Line, *places, parts.tolist(), inside.tolist()))
            self._stretches[number] = stretch
        return stretch[line]

    def _whole(self, found: list[FlatRow]) -> tuple[np.ndarray, np.ndarray]:
        """Codes and boxes of whole rows."""
        for row in found:
            if row.grid != self.shape:
                raise _misfit(row, f"has codes of {row.grid}, not {self.shape}", "crop the rows")
        flat = np.frombuffer(b"".join([row.codes for row in found]), found[0].code)
        return flat.reshape(len(found), *self.shape).astype(np.int64), self._boxes.copy()

    def _cut(self, found: list[FlatRow], rows: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and boxes of crops."""
        codes, boxes = np.empty((len(found), *self.shape), np.int64), np.empty((len(found), 6), np.int64)
        draws: dict[int, int] = {}
        for epoch in np.unique(epochs).tolist():
            chosen = np.flatnonzero(epochs == epoch)
            here = crop_draws(self.seed, epoch if self.shuffle else 0, rows[chosen])
            draws.update(zip(chosen.tolist(), here, strict=True))
        for index, row in enumerate(found):
            try:
                box = self.crop.box(row.grid, draws[index])
            except UsageError as error:
                raise _misfit(row, error.what, error.hint) from None
            cut = row.codes_thw[box[0] : box[1] : self.crop.stride, box[2] : box[3], box[4] : box[5]]
            if cut.shape != self.shape:
                raise _misfit(row, f"gives codes of {cut.shape}, not {self.shape}", "crop every side")
            codes[index], boxes[index] = cut, box
        return codes, boxes

    def _common(self) -> tuple[int, int, int]:
        """The shape of the codes, after making sure that the stores go together."""
        if not self.stores:
            raise UsageError("no token store to load")
        first = self.stores[0]
        for other in self.stores[1:]:
            for what in ("tokenizer", "codebook_size"):
                if getattr(first, what) != getattr(other, what):
                    raise _different(what, getattr(first, what), first, getattr(other, what), other)
        shapes = [self._shape_of(store) for store in self.stores]
        for shape, store in zip(shapes, self.stores, strict=True):
            if shape != shapes[0]:
                raise _different("latent grid", shapes[0], first, shape, store)
        return shapes[0]

    def _shape_of(self, store: TokenStore) -> tuple[int, int, int]:
        crop, grid = self.crop, self._grid_of(store)
        if grid is None and crop.t and crop.h and crop.w:
            return crop.t, crop.h, crop.w
        return crop.shape(store.grid_of(self.views) if grid is None else grid)

    def _grid_of(self, store: TokenStore) -> tuple[int, int, int] | None:
        """The one grid of the rows that are wanted of a store; none: they have several."""
        try:
            return store.grid_of(self.views)
        except UsageError:
            return None

    def _audio_size(self) -> int:
        sizes = {int(store.card.facts.get("audio_codebook_size", 0)) for store in self.stores}
        if self.audio and len(sizes) > 1:
            raise UsageError(f"the stores have audio codebooks of different sizes: {sorted(sizes)}", at=self.where)
        makers = {(store.card.facts.get("audio") or {}).get("fingerprint") for store in self.stores}
        if self.audio and len(makers) > 1:
            raise UsageError("the stores' sounds were encoded by different tokenizers", at=self.where)
        return max(sizes)

    def _least_bytes(self, rows: list[int]) -> int:
        """What the codes alone take in the cache; unknown (0) for rows with grids of their own."""
        return sum(
            0 if store.ragged else count * int(np.prod(store.grid)) * self._code.itemsize
            for store, count in zip(self.stores, rows, strict=True)
        )


def short_list(what: str, values: Any) -> Any:
    """A list of a loader's state as it is if it is short, else how many and their sha256; other values as they are."""
    if not isinstance(values, list):
        return values
    text = json.dumps(values)
    return values if len(text) <= _SHORT else f"{len(values)} {what} {hashlib.sha256(text.encode()).hexdigest()}"


def _parts(store: TokenStore, splits: Sequence[str]) -> Iterator[PartFile]:
    for part in store.parts:
        if part["split"] in splits and part["rows"]:
            path = store.folder / part["path"]
            yield PartFile(path, part["sha256"], part["rows"], store.tokenizer, store.codebook_size, store.unchecked)


def _different(what: str, mine: Any, here: TokenStore, other: Any, there: TokenStore) -> UsageError:
    return UsageError(
        f"stores do not mix: the {what} is {mine} in {here.folder} and {other} in {there.folder}"
        f" (tokenizers {here.tokenizer} and {there.tokenizer})",
        at=str(there.folder),
        hint="tokenize both with one tokenizer at one size, or train on one of them",
    )


def _misfit(row: FlatRow, what: str, hint: str) -> UsageError:
    return UsageError(f"clip {row.clip_id!r}, view {row.view_id!r}: {what}", hint=hint)


def _stacked(found: list[FlatRow], name: str) -> np.ndarray:
    values = [getattr(row, name) for row in found]
    for row, value in zip(found, values, strict=True):
        if value is None or value.shape != values[0].shape:
            shape = "none" if value is None else value.shape
            raise _misfit(row, f"its {name} are {shape}, the first row's {getattr(values[0], 'shape', 'none')}", "")
    return np.stack(values)
