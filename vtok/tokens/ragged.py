"""Rows of any grid as arrays: a table's rows sorted into blocks of one grid each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Integer, UInt64

from vtok.parquet import numbers_of

Grid = tuple[int, int, int]
GRID_COLUMNS = ["grid_t", "grid_h", "grid_w"]


class Block(NamedTuple):
    """Rows of a table that have the same grid.

    Attributes:
        grid: (t, h, w).
        rows: their numbers in the table, ascending.
        codes_nthw: their codes.
    """

    grid: Grid
    rows: Int64[np.ndarray, " n"]
    codes_nthw: Integer[np.ndarray, "n t h w"]


def lengths(table: pa.Table) -> Int64[np.ndarray, " n"]:
    """How many codes each row has."""
    return np.diff(_offsets(table)).astype(np.int64)


def flat_codes(table: pa.Table) -> Integer[np.ndarray, " s"]:
    """The codes of all rows, one row after the other."""
    column, offsets = _column(table), _offsets(table)
    return numbers_of(column.values)[offsets[0] : offsets[-1]] if len(column) else np.zeros(0, int)


def row_codes(table: pa.Table) -> list[Integer[np.ndarray, " s"]]:
    """The codes of each row; views of one array."""
    offsets = _offsets(table)
    return np.split(flat_codes(table), (offsets[1:-1] - offsets[0])) if table.num_rows else []


def grids(table: pa.Table) -> Int64[np.ndarray, "n 3"]:
    """The grid of each row."""
    return np.stack([numbers_of(table[name]).astype(np.int64) for name in GRID_COLUMNS], axis=1)


def row_ids(table: pa.Table) -> list[tuple[str, str]]:
    """(clip_id, view_id) of each row; a store of version 1 has one row a clip, the whole of it."""
    views = table["view_id"].to_pylist() if "view_id" in table.column_names else ["whole"] * table.num_rows
    return list(zip(table["clip_id"].to_pylist(), views, strict=True))


def row_hashes(table: pa.Table) -> UInt64[np.ndarray, " n"]:
    """8 bytes of each row's (clip_id, view_id)."""
    digests = [hashlib.blake2b(f"{clip}\0{view}".encode(), digest_size=8).digest() for clip, view in row_ids(table)]
    return np.frombuffer(b"".join(digests), np.uint64)


def blocks(table: pa.Table) -> Iterator[Block]:
    """The rows of a table by their grid; needs the columns `codes grid_t grid_h grid_w`.

    Raises:
        ValueError: a row has not as many codes as its grid.
    """
    if not table.num_rows:
        return
    shapes, which = np.unique(grids(table), axis=0, return_inverse=True)
    sizes = lengths(table)
    if (sizes != shapes.prod(axis=1)[which.reshape(-1)]).any():
        raise ValueError("a row has not as many codes as its grid")
    starts, flat = _offsets(table)[:-1], flat_codes(table)
    starts = starts - starts[0]
    for number, (t, h, w) in enumerate(shapes.tolist()):
        rows = np.flatnonzero(which.reshape(-1) == number)
        places = starts[rows][:, None] + np.arange(t * h * w)
        codes = flat[places] if len(shapes) > 1 else flat.reshape(len(rows), -1)
        yield Block((t, h, w), rows, codes.reshape(-1, t, h, w))


def _column(table: pa.Table) -> pa.ListArray:
    return table["codes"].combine_chunks()


def _offsets(table: pa.Table) -> np.ndarray:
    column = _column(table)
    return numbers_of(column.offsets) if len(column) else np.zeros(1, np.int32)
