"""The clip manifest at any size: planning reads a few columns, workers read the rows that they need.

A clip is referred to by its row number, counted through the parts in the index's order. Nothing holds rows as Python
objects but a worker, and only those of the shard that it makes.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.clips import CLIPS
from schemas.errors import IntegrityError
from vtok import artefacts
from vtok.files import read_table

PLANNED_COLUMNS = (
    "source",
    "split",
    "source_bytes",
    "fps",
    "height",
    "width",
    "has_audio",
    "start_frame",
    "frame_stride",
    "start_time",
    "end_time",
    "num_frames",
)
"""What planning looks at: about 100 bytes a clip."""

_CACHE_BYTES = 64 << 20


class ManifestPart(NamedTuple):
    """One file of the manifest."""

    path: str
    rows: int
    sha256: str


class Manifest:
    """The parts of a finished `clips/` folder.

    Args:
        folder: the artefact's folder.
        parts: its parts, in order.
    """

    def __init__(self, folder: Path, parts: list[ManifestPart]) -> None:
        self.folder, self.parts = folder, parts
        self.starts = np.cumsum([0, *(part.rows for part in parts)])
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest of a sealed folder."""
        index = artefacts.load_index(folder).to_pylist()
        return cls(folder, [ManifestPart(row["path"], row["rows"], row["sha256"]) for row in index])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def columns(self, names: tuple[str, ...] = PLANNED_COLUMNS) -> pa.Table:
        """Some columns of all rows."""
        schema = pa.schema([CLIPS.field(name) for name in names])
        tables = [read_table(self.folder / part.path, columns=list(names), schema=schema) for part in self.parts]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def part(self, number: int) -> pa.Table:
        """All columns of one part, its bytes compared with the index.

        Raises:
            IntegrityError: the file is not the one that was written.
        """
        part = self.parts[number]
        path = artefacts.verify_part(self.folder, part.path, part.sha256)
        table = read_table(path, schema=CLIPS)
        if table.num_rows != part.rows:
            raise IntegrityError(f"{table.num_rows} rows where the index has {part.rows}", at=str(path))
        return table

    def take(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The rows of these numbers, in this order; parts read lately are kept, up to 64 MiB."""
        where = np.searchsorted(self.starts, rows, side="right") - 1
        found: list[dict[str, Any]] = [{}] * len(rows)
        for number in np.unique(where):
            places = np.flatnonzero(where == number)
            table = self._cached(int(number)).take(pa.array(rows[places] - self.starts[number]))
            for place, row in zip(places, table.to_pylist(), strict=True):
                found[place] = row
        return found

    def _cached(self, number: int) -> pa.Table:
        if number not in self._cache:
            self._cache[number] = self.part(number)
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]
