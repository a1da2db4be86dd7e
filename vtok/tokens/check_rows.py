"""Whether the rows of one row group can be true: their columns, codes, grids, split and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from schemas.tokens import tokens_schema
from vtok.tokens.ragged import GRID_COLUMNS, flat_codes, grids, lengths


class Fault(NamedTuple):
    """What is wrong, and with how many rows."""

    what: str
    rows: int


class GroupCheck:
    """Checks a row group.

    Args:
        table: its rows.
        codebook_size: codes must be below it.
        split: of every row.
        classes: names by label; None: not known.
        view: view_id of every row; None: the version has none, or an import has any.
        audio: what the part's footer says of its codes of sound; None: there are none.

    Attributes:
        faults: what is wrong.
        bad_rows: rows with any fault.
        readable: it has the columns that other checks need, with their types.
    """

    def __init__(
        self,
        table: pa.Table,
        codebook_size: int,
        split: str,
        classes: list[str] | None,
        *,
        view: str | None,
        audio: Mapping[str, Any] | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self._table, self._bad = table, np.zeros(table.num_rows, bool)
        self.readable = self._columns(codebook_size)
        if self.readable and table.num_rows:
            self._codes(codebook_size)
            other = np.array([value != split for value in table["split"].to_pylist()])
            self._note(other, f"the split is not {split!r}, that of the part")
            if view is not None:
                other = np.array([value != view for value in table["view_id"].to_pylist()])
                self._note(other, f"the view is not {view!r}, that of the part")
            self._labels(classes)
            if audio is not None:
                self._sounds(audio["codebook_size"], None if audio["grid"] is None else math.prod(audio["grid"]))
        self.bad_rows = int(self._bad.sum()) if self.readable else table.num_rows

    def _note(self, wrong: Bool[np.ndarray, " n"], what: str) -> None:
        """Notes the rows that are wrong, with the first of them by name."""
        if not wrong.any():
            return
        self._bad |= wrong
        first = self._table["clip_id"][int(np.flatnonzero(wrong)[0])].as_py()
        self.faults.append(Fault(f"{what} (first: {first})", int(wrong.sum())))

    def _columns(self, codebook_size: int) -> bool:
        """The contract's columns and types; columns that a version lacks are that version's matter."""
        wanted = tokens_schema(codebook_size)
        typed = set(wanted.names) - {"audio_codes"}  # those have a codebook of their own
        missing = [name for name in _NEEDED if name not in self._table.column_names]
        other = [
            name
            for name in self._table.column_names
            if name in typed and self._table.schema.field(name).type != wanted.field(name).type
        ]
        nulls = [
            name
            for name in self._table.column_names
            if name in wanted.names and not wanted.field(name).nullable and self._table[name].null_count
        ]
        for names, what in ((missing, "missing"), (other, "of another type"), (nulls, "null where they must not be")):
            if names:
                self.faults.append(Fault(f"columns are {what}: {', '.join(names)}", self._table.num_rows))
        return not self.faults

    def _codes(self, codebook_size: int) -> None:
        sizes, shapes = lengths(self._table), grids(self._table)
        self._note(np.asarray((shapes <= 0).any(axis=1)), "the grid is not positive")
        self._note(np.asarray(sizes != shapes.prod(axis=1)), "the number of codes is not that of the grid")
        high = flat_codes(self._table) >= codebook_size
        rows = np.repeat(np.arange(len(sizes)), sizes)
        self._note(np.isin(np.arange(len(sizes)), rows[high]), f"a code is not below {codebook_size:,}")

    def _sounds(self, codebook_size: int, count: int | None) -> None:
        column = self._table["audio_codes"].combine_chunks()
        if count is not None:  # else the part has rows of several views
            found = pc.fill_null(pc.list_value_length(column), count).to_numpy(zero_copy_only=False)
            self._note(found != count, f"the sound has not {count} codes")
        high = pc.greater_equal(pc.list_flatten(column), codebook_size).to_numpy(zero_copy_only=False)
        rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        what = f"a code of the sound is not below {codebook_size:,}"
        self._note(np.isin(np.arange(len(column)), rows[high]), what)

    def _labels(self, classes: list[str] | None) -> None:
        if not classes:
            return
        labels, names = self._table["label"].to_pylist(), self._table["class_name"].to_pylist()
        outside = [label is not None and not 0 <= label < len(classes) for label in labels]
        self._note(np.array(outside), f"the label is none of the {len(classes)} classes")
        differ = [
            label is not None and name is not None and 0 <= label < len(classes) and classes[label] != name
            for label, name in zip(labels, names, strict=True)
        ]
        self._note(np.array(differ), "the class name is not that of the label")


_NEEDED = ("clip_id", "codes", *GRID_COLUMNS, "split", "label", "class_name")
