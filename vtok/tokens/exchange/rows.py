"""Rows of other tools as rows of the store: what they do not know is filled in, what cannot be true is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import IntegrityError, UsageError
from schemas.tokens import tokens_schema
from vtok.files import read_table
from vtok.tokens.exchange.base import ROWS_NAME, Facts, Row
from vtok.tokens.parts import check_row


def store_rows(rows: Iterable[Row], source: Path, split: str, facts: Facts) -> Iterator[dict[str, Any]]:
    """Complete rows of the store, each of them checked.

    Args:
        rows: of one split, in order.
        source: the export's folder; columns that the format has no place for lie there.
        split: of all rows.
        facts: what holds for all rows.

    Raises:
        UsageError: codes are no integers, a column has values of another type, or a row is of another split.
        IntegrityError: a row cannot be true.
    """
    beside = source / ROWS_NAME.format(split)
    known: Iterator[dict[str, Any]] = itertools.repeat({})
    if beside.is_file():
        known = iter(read_table(beside).to_pylist())
    schema = tokens_schema(facts.codebook_size, facts.audio_codebook_size)
    for number, row in enumerate(rows):
        place = f"clip {number} of {split}"
        columns = {key: value for key, value in {**row.columns, **next(known, {})}.items() if value is not None}
        _check_columns(columns, schema, place, source)
        if columns.get("split", split) != split:
            raise UsageError(
                f"{place} says that it is of split {columns['split']!r}",
                at=str(source),
                hint="write the rows of each split to files of their own, named after it",
            )
        codes = _integers(row.codes, place, facts, source)
        filled = {
            "clip_id": f"{split}-{number:09d}",
            "split": split,
            "source": source.name,
            **columns,
            **dict(zip(("grid_t", "grid_h", "grid_w"), _grid(codes, columns, facts, place, source), strict=True)),
            "codes": codes.reshape(-1).astype(facts.dtype),
        }
        complete = {field.name: filled.get(field.name, _blank(field)) for field in schema}
        _check_sound(complete["audio_codes"], facts, place, source)
        try:
            check_row(complete, facts.codebook_size, facts.audio_codebook_size, None)
        except ValueError as error:
            raise IntegrityError(f"{place}: {error}", at=str(source), hint="make the files again") from error
        yield complete


def _check_columns(columns: dict[str, Any], schema: pa.Schema, place: str, source: Path) -> None:
    for name, value in columns.items():
        if name in schema.names and name != "codes" and not _fits(value, schema.field(name).type):
            shown = value if len(repr(value)) < 40 else type(value).__name__
            raise UsageError(
                f"{place} has {shown!r} as {name}, not {schema.field(name).type}",
                at=str(source),
                hint=f"write {name} with this type, or under another name: what the store does not know is left out",
            )


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_string(kind):
        return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_int32(kind):
        return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31
    if pa.types.is_floating(kind):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_binary(kind):
        return isinstance(value, bytes)
    numbers = np.asarray(value)
    return numbers.ndim == 1 and (numbers.dtype.kind in "ui" or not numbers.size)


def _integers(codes: Any, place: str, facts: Facts, source: Path) -> np.ndarray:
    array = np.asarray(codes)
    if array.dtype.kind not in "ui":
        raise UsageError(
            f"the codes of {place} are {array.dtype}, not integers",
            at=str(source),
            hint="write them as integers, none of them missing; is it the right column?",
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < facts.codebook_size:
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise IntegrityError(
            f"{place} holds code {wrong}, the codebook has {facts.codebook_size}",
            at=str(source),
            hint="is it the right tokenizer, and the right column?",
        )
    return array


def _grid(codes: np.ndarray, columns: dict[str, Any], facts: Facts, place: str, source: Path) -> tuple[int, int, int]:
    sides = tuple(int(columns.get(f"grid_{axis}", 0)) for axis in "thw")
    grid = sides if all(sides) else codes.shape if codes.ndim == 3 else facts.grid
    fits = grid is not None and min(grid) > 0 and math.prod(grid) == codes.size
    if grid is None or not fits or (codes.ndim == 3 and grid != codes.shape):
        shape = "x".join(map(str, codes.shape))
        raise UsageError(f"{place} has {shape} codes, its grid is {grid}", at=str(source), hint="give --grid t,h,w")
    t, h, w = grid
    return t, h, w


def _check_sound(codes: Any, facts: Facts, place: str, source: Path) -> None:
    grid = None if facts.audio is None else facts.audio.get("grid")
    if codes is not None and grid is not None and len(codes) != math.prod(grid):
        raise IntegrityError(
            f"the sound of {place} has {len(codes)} codes, not {math.prod(grid)}", at=str(source), hint="export again"
        )


_BLANKS: dict[str, Any] = {"view_id": "whole", "num_frames": -1, "height": -1, "width": -1}


def _blank(field: pa.Field) -> Any:
    """What a column holds of which the source says nothing."""
    if field.nullable:
        return None
    if field.name in _BLANKS:
        return _BLANKS[field.name]
    return {pa.string(): "", pa.float64(): 0.0, pa.bool_(): False}.get(field.type, 0)
