"""What the codes of a token store are like, as one Arrow table: a row for the store, each split and each class.

The rows are streamed one row group at a time. What is counted has a fixed size that is planned beforehand (`BUDGET`):
where the counts for the entropy at every position do not fit into it, the store is read again for the other positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from schemas.errors import IntegrityError
from vtok.tokens.ngrams import LARGEST_CODEBOOK, NGrams
from vtok.tokens.ragged import GRID_COLUMNS, Block, Grid, blocks
from vtok.tokens.stats import entropies, health, repeats_in_time, usage
from vtok.tokens.store import TokenStore

BUDGET = 256 << 20
"""Bytes of the counts by class, and as many of the counts by position."""
MOST_GRIDS = 16
"""Entropy by position is told for so many grids, those with most rows."""
OTHERS = "(other classes)"
_NGRAM_ENTRIES = 1 << 21  # runs whose counts are kept, over all scopes
_RUNS = [(2, "raster"), (3, "raster"), (2, "time"), (3, "time")]

SURVEY = pa.schema(
    [
        pa.field("scope", pa.string(), nullable=False),  # store, split or class
        pa.field("name", pa.string()),  # of the split or class; null: the store, or rows without a class
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("codes", pa.int64(), nullable=False),  # code positions that were counted
        pa.field("used", pa.int64(), nullable=False),  # different codes that occur
        pa.field("dead", pa.int64(), nullable=False),
        pa.field("entropy_bits", pa.float64(), nullable=False),  # of the usage
        pa.field("perplexity", pa.float64(), nullable=False),
        pa.field("repeat_rate", pa.float64()),  # share of codes equal to the code one latent frame before
        pa.field("usage", pa.list_(pa.int64()), nullable=False),  # how often each code occurs
        pa.field(
            "ngrams",  # most frequent runs of codes: in raster order (t, h, w), or along time at one place
            pa.list_(
                pa.struct(
                    [
                        ("along", pa.string()),
                        ("codes", pa.list_(pa.int64())),
                        ("count", pa.int64()),  # at least
                        ("error", pa.int64()),  # it is at most count + error; 0: exact
                        ("share", pa.float64()),  # of all runs of that kind
                    ]
                )
            ),
            nullable=False,
        ),
        pa.field(
            "positions",  # by grid; null for classes
            pa.list_(
                pa.struct(
                    [
                        ("grid_t", pa.int32()),
                        ("grid_h", pa.int32()),
                        ("grid_w", pa.int32()),
                        ("rows", pa.int64()),
                        ("entropy_bits", pa.list_(pa.float64())),  # at each position, in raster order
                        ("repeat_rate", pa.list_(pa.float64())),  # of latent frames 1, 2, ...
                    ]
                )
            ),
        ),
    ]
)
"""The table of `survey`."""

Key = tuple[str, str | None]  # scope and name


class _Task(NamedTuple):
    """Positions of a grid that are counted in one reading."""

    grid: Grid
    start: int
    stop: int


class _Scope:
    """What is counted of a split or a class."""

    def __init__(self, codebook_size: int, capacity: int) -> None:
        self.rows = self.repeated = self.compared = 0
        self.usage: Int64[np.ndarray, " k"] = np.zeros(codebook_size, np.int64)
        self.runs = [NGrams(order, codebook_size, capacity) for order, _ in _RUNS] if capacity else []
        self.grids: dict[Grid, Int64[np.ndarray, " t"]] = {}  # rows, then repeats of latent frames 1, 2, ...

    def add(self, block: Block, rows: np.ndarray) -> None:
        codes = block.codes_nthw[rows]
        n, t, h, w = codes.shape
        self.rows += n
        self.usage += usage(codes, len(self.usage))
        repeats = repeats_in_time(codes)
        self.repeated += int(repeats.sum())
        self.compared += n * (t - 1) * h * w
        seen = self.grids.setdefault(block.grid, np.zeros(t, np.int64))
        seen[0] += n
        seen[1:] += repeats
        for run, (_, along) in zip(self.runs, _RUNS, strict=False):
            along_time = along == "time"
            run.add(codes.transpose(0, 2, 3, 1).reshape(-1, t) if along_time else codes.reshape(n, -1))

    def facts(self, top: int) -> dict[str, Any]:
        of = health(self.usage)
        return {
            "rows": self.rows,
            "codes": of.codes,
            "used": len(self.usage) - of.dead,
            "dead": of.dead,
            "entropy_bits": of.entropy_bits,
            "perplexity": of.perplexity,
            "repeat_rate": self.repeated / self.compared if self.compared else None,
            "usage": self.usage,
            "ngrams": [
                {
                    "along": along,
                    "codes": list(found.codes),
                    "count": found.times,
                    "error": found.error,
                    "share": found.times / run.total,
                }
                for run, (_, along) in zip(self.runs, _RUNS, strict=False)
                for found in run.most(top)
            ],
        }


def survey(
    store: TokenStore, *, top: int = 20, budget: int = BUDGET, advance: Callable[[int], None] = lambda rows: None
) -> pa.Table:
    """Counts every code of a store.

    Args:
        store: the store.
        top: most frequent runs of each kind to tell; 0: runs are not counted, which is much faster.
        budget: bytes of the counts by class, and as many of those by position.
        advance: called with the number of rows that were read, in every reading.

    Returns:
        A table of `SURVEY`: the store, its splits, its classes by name, the last one of them those that did not fit.

    Raises:
        IntegrityError: a row group is damaged, or a code or a grid is none of the store's.
    """
    return _Survey(store, top, budget).run(advance)


class _Survey:
    def __init__(self, store: TokenStore, top: int, budget: int) -> None:
        self.store, self.budget, self.size = store, budget, store.codebook_size
        self.top = top if self.size <= LARGEST_CODEBOOK else 0
        self.splits = sorted(store.splits())
        by_class, by_grid = self._plan()
        room = max(1, budget // (8 * self.size))
        kept = sorted(by_class, key=lambda name: (-by_class[name], name or ""))[:room]
        self.kept = set(kept)
        keys: list[Key] = [("store", None)] + [("split", name) for name in self.splits]
        keys += [("class", name) for name in sorted(kept, key=lambda name: (name is None, name or ""))]
        keys += [("class", OTHERS)] if len(by_class) > len(kept) else []
        capacity = max(1024, _NGRAM_ENTRIES // (len(_RUNS) * len(keys))) if self.top else 0
        self.scopes = {key: _Scope(self.size, capacity) for key in keys}
        grids = sorted(by_grid, key=lambda grid: (-by_grid[grid], grid))[:MOST_GRIDS]
        self.entropy = {
            key: {grid: np.full(int(np.prod(grid)), np.nan) for grid in grids} for key in keys if key[0] != "class"
        }
        self.passes = list(self._passes(grids))

    def run(self, advance: Callable[[int], None]) -> pa.Table:
        for number, tasks in enumerate(self.passes or [[]]):
            self._read(tasks, everything=number == 0, advance=advance)
        rows = []
        for key, scope in self.scopes.items():
            grids = [self._position(key, grid) for grid in self.entropy.get(key, {}) if grid in scope.grids]
            positions = grids if key in self.entropy else None
            rows.append({"scope": key[0], "name": key[1], **scope.facts(self.top), "positions": positions})
        about = {
            "tokenizer": self.store.tokenizer,
            "codebook_size": str(self.size),
            "store": self.store.card.fingerprint,
        }
        return pa.Table.from_pylist(rows, schema=SURVEY.with_metadata(about))

    def _plan(self) -> tuple[dict[str | None, int], dict[Grid, int]]:
        """Rows of every class and of every grid."""
        columns = ["class_name", *GRID_COLUMNS]
        by_class: dict[str | None, int] = {}
        by_grid: dict[Grid, int] = {}
        for split in self.splits:
            for group in self.store.row_groups(split):
                counted = self.store.read(group, columns).group_by(columns).aggregate([([], "count_all")])
                for row in counted.to_pylist():
                    grid = (row["grid_t"], row["grid_h"], row["grid_w"])
                    by_class[row["class_name"]] = by_class.get(row["class_name"], 0) + row["count_all"]
                    by_grid[grid] = by_grid.get(grid, 0) + row["count_all"]
        return by_class, by_grid

    def _passes(self, grids: list[Grid]) -> Iterator[list[_Task]]:
        """Which positions are counted in which reading, so that the counts of one fit into the budget."""
        room = whole = max(1, self.budget // (4 * self.size * (len(self.splits) + 1)))
        tasks: list[_Task] = []
        for grid in grids:
            start, positions = 0, int(np.prod(grid))
            while start < positions:
                stop = min(positions, start + room)
                tasks.append(_Task(grid, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield tasks
                    tasks, room = [], whole
        if tasks:
            yield tasks

    def _read(self, tasks: list[_Task], *, everything: bool, advance: Callable[[int], None]) -> None:
        columns = ["codes", *GRID_COLUMNS, *(["class_name"] if everything else [])]
        counts = {
            (split, task): np.zeros((task.stop - task.start) * self.size, np.uint32)
            for split in self.splits
            for task in tasks
        }
        for split in self.splits:
            for group in self.store.row_groups(split):
                table = self.store.read(group, columns)
                classes = self._classes(table) if everything else []
                for block in self._blocks(table, str(group.path)):
                    if everything:
                        self._count(block, split, classes)
                    for task in tasks:
                        if task.grid == block.grid:
                            codes = block.codes_nthw.reshape(len(block.rows), -1)[:, task.start : task.stop]
                            places = np.arange(task.stop - task.start) * self.size + codes
                            np.add.at(counts[split, task], places.reshape(-1), 1)
                advance(table.num_rows)
        for task in tasks:
            where = slice(task.start, task.stop)
            total = np.zeros(((task.stop - task.start), self.size), np.uint32)
            for split in self.splits:
                mine = counts.pop((split, task)).reshape(-1, self.size)
                self.entropy["split", split][task.grid][where] = entropies(mine) / np.log(2)
                total += mine
            self.entropy["store", None][task.grid][where] = entropies(total) / np.log(2)

    def _classes(self, table: pa.Table) -> list[Key]:
        names = table["class_name"].to_pylist()
        return [("class", name if name in self.kept else OTHERS) for name in names]

    def _count(self, block: Block, split: str, classes: list[Key]) -> None:
        everyone = np.arange(len(block.rows))
        self.scopes["store", None].add(block, everyone)
        self.scopes["split", split].add(block, everyone)
        by_class: dict[Key, list[int]] = {}
        for place, row in enumerate(block.rows):
            by_class.setdefault(classes[row], []).append(place)
        for key, places in by_class.items():
            self.scopes[key].add(block, np.array(places))

    def _blocks(self, table: pa.Table, path: str) -> Iterator[Block]:
        try:
            for block in blocks(table):
                if block.codes_nthw.size and int(block.codes_nthw.max()) >= self.size:
                    raise ValueError(f"a code is not below {self.size:,}")
                yield block
        except ValueError as error:
            hint = f"`vtok tokens check {self.store.folder}` says all that is damaged"
            raise IntegrityError(str(error), at=path, hint=hint) from None

    def _position(self, key: Key, grid: Grid) -> dict[str, Any]:
        t, h, w = grid
        seen = self.scopes[key].grids[grid]
        return {
            "grid_t": t,
            "grid_h": h,
            "grid_w": w,
            "rows": int(seen[0]),
            "entropy_bits": self.entropy[key][grid],
            "repeat_rate": seen[1:] / (int(seen[0]) * h * w),
        }
