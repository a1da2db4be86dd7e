"""Compares two token stores row by row, joined on (clip_id, view_id), in all columns but the shard that a clip lay in.

Of each store 16 bytes a row are held, to find rows, and a few row groups; two stores in the same order are read once.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.tokens import tokens_schema
from vtok.tokens.parts import arrays_of
from vtok.tokens.ragged import GRID_COLUMNS, grids, row_codes, row_hashes, row_ids
from vtok.tokens.store import RowGroup, TokenStore

_NOT_FACTS = ("clip_id", "view_id", "codes", *GRID_COLUMNS, "shard")
_FACTS = [name for name in tokens_schema(1).names if name not in _NOT_FACTS]
_COLUMNS = ["clip_id", "view_id", "codes", *GRID_COLUMNS, *_FACTS]
_HELD_GROUPS = 8
_HELD_BYTES = 1 << 28

ROWS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("view_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("state", pa.string(), nullable=False),  # changed, other_grid, only_a, only_b, or equal (other facts)
        pa.field("codes", pa.int64()),  # how many were compared
        pa.field("changed_codes", pa.int64()),
        pa.field("changed_facts", pa.list_(pa.string())),  # columns other than the codes that differ
    ]
)
"""The rows of a `Difference` that are not equal."""


class Group(NamedTuple):
    """Counts of a split or a class, or of everything.

    Attributes:
        equal: rows with the same codes.
        changed: rows with the same grid and other codes.
        other_grid: rows whose grids differ: their codes cannot be compared.
        only_a, only_b: rows of one store only.
        facts_changed: rows in both of which another column differs (label, span, source, pixels, sound, ...), whatever
            their codes.
        codes, changed_codes: code positions that were compared, and that differ.
    """

    equal: int = 0
    changed: int = 0
    other_grid: int = 0
    only_a: int = 0
    only_b: int = 0
    facts_changed: int = 0
    codes: int = 0
    changed_codes: int = 0

    @property
    def same(self) -> bool:
        return not (self.changed or self.other_grid or self.only_a or self.only_b or self.facts_changed)


class Difference(NamedTuple):
    """What differs between two stores.

    Attributes:
        total: everything.
        splits, classes: by split and by class name (None: no class), of store A where the row is in both.
        facts: columns other than the codes that differ, and in how many rows that are in both.
        makers: whether one tokenizer (and one of sound) made both; if not, equal codes do not mean the same.
        reasons: what about the stores themselves explains it.
        rows: the rows that are not equal, as a table of `ROWS`; at most as many as were asked for.
        more: how many more there are.
    """

    total: Group
    splits: dict[str, Group]
    classes: dict[str | None, Group]
    facts: dict[str, int]
    makers: bool
    reasons: list[str]
    rows: pa.Table
    more: int

    @property
    def same(self) -> bool:
        """Whether either store can stand for the other."""
        return self.total.same and self.makers


def diff_stores(
    a: TokenStore, b: TokenStore, *, most: int = 1_000_000, advance: Callable[[int], None] = lambda rows: None
) -> Difference:
    """Compares all rows of two stores.

    Args:
        a: the first store.
        b: the other one.
        most: rows to list at most; the counts are of all.
        advance: called with the number of rows of every row group that is done; there are rows(a) + rows(b).

    Raises:
        IntegrityError: a row group is damaged.
    """
    return _Diff(a, b, most).run(advance)


def explain(a: TokenStore, b: TokenStore) -> list[str]:
    """Why two stores cannot hold the same codes, or why codes that differ mean different things."""
    reasons = []
    if a.tokenizer != b.tokenizer:
        reasons.append(
            f"the tokenizers differ ({a.tokenizer[:12]} and {b.tokenizer[:12]}): a code of one means nothing to the "
            "other, and only equal clips and spans can be concluded from this comparison"
        )
    if a.codebook_size != b.codebook_size:
        reasons.append(f"the codebooks have {a.codebook_size:,} and {b.codebook_size:,} codes")
    sound_a, sound_b = map(_sound, (a, b))
    if sound_a != sound_b:
        reasons.append(f"the tokenizers of sound differ ({sound_a[:12] or 'none'} and {sound_b[:12] or 'none'})")
    grid_a, grid_b = (store.card.facts.get("grid") for store in (a, b))
    if grid_a != grid_b:
        names = ["of several sizes" if grid is None else " x ".join(map(str, grid)) for grid in (grid_a, grid_b)]
        reasons.append(f"the grids differ ({names[0]} and {names[1]})")
    mode_a, mode_b = (store.card.facts.get("mode") for store in (a, b))
    if mode_a != mode_b:
        reasons.append(f"they were encoded in different modes ({mode_a} and {mode_b})")
    shards_a, shards_b = (store.card.inputs.get("shards", "") for store in (a, b))
    if shards_a != shards_b and shards_a and shards_b:  # an import does not know its shards
        reasons.append(f"they were made from different shards ({shards_a[:12]} and {shards_b[:12]})")
    if a.classes != b.classes:
        reasons.append("the lists of classes differ: the same label may mean another class")
    return reasons


def _tokenizer(store: TokenStore) -> tuple[str, int]:
    return store.tokenizer, store.codebook_size


def _sound(store: TokenStore) -> str:
    """Fingerprint of what encoded the sounds; empty: nothing did, or nobody knows."""
    return str((store.card.facts.get("audio") or {}).get("fingerprint", ""))


class _Rows:
    """Finds the rows of a store by their ids."""

    def __init__(self, store: TokenStore, advance: Callable[[int], None]) -> None:
        self.store = store
        self.groups: list[RowGroup] = [group for split in store.splits() for group in store.row_groups(split)]
        self.starts = np.concatenate([[0], np.cumsum([group.rows for group in self.groups])]).astype(np.int64)
        hashes = []
        for group in self.groups:
            hashes.append(row_hashes(store.read(group, ["clip_id", "view_id"])))
            advance(group.rows)
        self.hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        self.order = np.argsort(self.hashes, kind="stable")
        self.hashes = self.hashes[self.order]
        self.seen = np.zeros(len(self.hashes), bool)
        self._held: OrderedDict[int, _Table] = OrderedDict()

    def find(self, key: tuple[str, str], value: np.uint64) -> tuple[_Table, int] | None:
        """The group and the place in it of the row with these ids, and notes that it was found."""
        at = int(np.searchsorted(self.hashes, value))
        while at < len(self.hashes) and self.hashes[at] == value:
            row = int(self.order[at])
            group = int(np.searchsorted(self.starts, row, side="right")) - 1
            table, place = self.table(group), row - int(self.starts[group])
            if table.ids[place] == key:
                self.seen[row] = True
                return table, place
            at += 1
        return None

    def table(self, group: int) -> _Table:
        if group in self._held:
            self._held.move_to_end(group)
        else:
            self._held[group] = _Table(self.store.read(self.groups[group], _COLUMNS))
            while len(self._held) > 1 and (
                len(self._held) > _HELD_GROUPS or sum(held.bytes for held in self._held.values()) > _HELD_BYTES
            ):
                self._held.popitem(last=False)
        return self._held[group]


class _Table:
    """A row group, taken apart."""

    def __init__(self, table: pa.Table) -> None:
        self.bytes = table.nbytes
        self.ids, self.hashes = row_ids(table), row_hashes(table)
        self.codes, self.grids = row_codes(table), grids(table)
        plain = [name for name in _FACTS if name not in ("cond_frames", "audio_codes")]
        self.facts = table.select(plain).to_pylist()
        for row, frames, sound in zip(self.facts, table["cond_frames"], arrays_of(table, "audio_codes"), strict=True):
            row["cond_frames"] = _digest(frames.as_buffer())
            row["audio_codes"] = _digest(None if sound is None else sound.astype("<u4").tobytes())


def _digest(content: Any) -> bytes | None:
    return None if content is None else hashlib.blake2b(content, digest_size=16).digest()


class _Diff:
    def __init__(self, a: TokenStore, b: TokenStore, most: int) -> None:
        self.a, self.b, self.most = a, b, most
        self.counts: dict[tuple[str, str | None], Counter[str]] = {("total", None): Counter()}
        self.facts: Counter[str] = Counter()
        self.listed: list[dict[str, Any]] = []
        self.different = 0

    def run(self, advance: Callable[[int], None]) -> Difference:
        rows = _Rows(self.a, advance)
        for split in self.b.splits():
            for group in self.b.row_groups(split):
                mine = _Table(self.b.read(group, _COLUMNS))
                for place, key in enumerate(mine.ids):
                    found = rows.find(key, mine.hashes[place])
                    if found is None:
                        self._note(key, mine.facts[place], Counter(only_b=1))
                    else:
                        self._compare(key, *found, mine, place)
                advance(group.rows)
        missing = np.searchsorted(rows.starts, np.flatnonzero(~rows.seen), side="right") - 1
        for number in np.unique(missing).tolist():
            table, start = rows.table(number), int(rows.starts[number])
            for place in np.flatnonzero(~rows.seen[start : start + len(table.ids)]).tolist():
                self._note(table.ids[place], table.facts[place], Counter(only_a=1))
        groups = {key: Group(**counted) for key, counted in self.counts.items()}
        return Difference(
            groups["total", None],
            {str(name): group for (scope, name), group in sorted(groups.items(), key=str) if scope == "split"},
            {name: group for (scope, name), group in sorted(groups.items(), key=str) if scope == "class"},
            {name: self.facts[name] for name in _FACTS if self.facts[name]},
            all(each(self.a) == each(self.b) for each in (_tokenizer, _sound)),
            explain(self.a, self.b),
            pa.Table.from_pylist(self.listed, schema=ROWS),
            self.different - len(self.listed),
        )

    def _compare(self, key: tuple[str, str], a: _Table, at: int, b: _Table, place: int) -> None:
        counted: Counter[str] = Counter()
        facts = [name for name in _FACTS if a.facts[at][name] != b.facts[place][name]]
        counted["facts_changed"] = int(bool(facts))
        self.facts.update(facts)
        if (a.grids[at] != b.grids[place]).any() or len(a.codes[at]) != len(b.codes[place]):
            counted["other_grid"] = 1
        else:
            counted["codes"] = len(a.codes[at])
            counted["changed_codes"] = int((a.codes[at] != b.codes[place]).sum())
            counted["changed" if counted["changed_codes"] else "equal"] = 1
        self._note(key, a.facts[at], counted, facts)

    def _note(
        self, key: tuple[str, str], row: dict[str, Any], counted: Counter[str], facts: Sequence[str] = ()
    ) -> None:
        for scope in (("total", None), ("split", row["split"]), ("class", row["class_name"])):
            self.counts.setdefault(scope, Counter()).update(counted)
        if counted["equal"] and not facts:
            return
        self.different += 1
        if len(self.listed) < self.most:
            state = next(s for s in ("only_a", "only_b", "other_grid", "changed", "equal") if counted[s])
            self.listed.append(
                {
                    "clip_id": key[0],
                    "view_id": key[1],
                    "split": row["split"],
                    "class_name": row["class_name"],
                    "state": state,
                    "codes": counted["codes"] if state in ("changed", "equal") else None,
                    "changed_codes": counted["changed_codes"] if state in ("changed", "equal") else None,
                    "changed_facts": list(facts),
                }
            )
