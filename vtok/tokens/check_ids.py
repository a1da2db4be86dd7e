"""Finds rows of a store with the same (clip_id, view_id), in 8 bytes a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vtok.files import open_parquet
from vtok.tokens.ragged import row_hashes, row_ids


class Twice(NamedTuple):
    """Ids that occur more than once: the part of the first, how many rows are too many, and what to say."""

    part: str
    rows: int
    what: str


class SeenIds:
    """Collects hashes of ids. They say which rows could be the same; then the ids themselves are read again.

    Args:
        folder: the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: list[np.ndarray] = []
        self._groups: dict[str, list[int]] = {}

    def add(self, part: str, group: int, table: pa.Table) -> None:
        """Notes the rows of a row group."""
        self._hashes.append(row_hashes(table))
        self._groups.setdefault(part, []).append(group)

    def twice(self) -> Iterator[Twice]:
        """What occurs more than once, by the part in which it occurs first."""
        hashes = np.sort(np.concatenate(self._hashes)) if self._hashes else np.zeros(0, np.uint64)
        suspects = hashes[1:][hashes[1:] == hashes[:-1]]
        if not len(suspects):
            return
        seen: Counter[tuple[str, str]] = Counter()
        where: dict[tuple[str, str], str] = {}
        for part in self._groups:
            for table in self._tables(part):
                ids = row_ids(table)
                for place in np.flatnonzero(np.isin(row_hashes(table), suspects)):
                    seen[ids[place]] += 1
                    where.setdefault(ids[place], part)
        doubled = {key: number for key, number in seen.items() if number > 1}
        for part in dict.fromkeys(where[key] for key in doubled):
            mine = [key for key in doubled if where[key] == part]
            like = f", like {len(mine) - 1} others" if len(mine) > 1 else ""
            clip, view = mine[0]
            what = f"the row of clip {clip!r}, view {view!r} occurs {doubled[mine[0]]} times{like}"
            yield Twice(part, sum(doubled[key] - 1 for key in mine), what)

    def _tables(self, part: str) -> Iterator[pa.Table]:
        with open_parquet(self.folder / part, page_checksum_verification=True) as file:
            columns = [name for name in ("clip_id", "view_id") if name in file.schema_arrow.names]
            for group in self._groups[part]:
                yield file.read_row_group(group, columns=columns)
