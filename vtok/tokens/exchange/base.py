"""What the formats of other tools have in common: rows in, rows out, a split at a time.

An export also writes `vtok.json` beside the data: which tokenizer made the codes, the codebook, the classes, and the
sha256 of every file, so that it can be imported again without loss and damage in between is noticed. Columns that a
format has no place for go into `rows-<split>.parquet`, row by row in the data's order.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Integer

from schemas.errors import UsageError
from vtok.tokens.exchange.splits import Splits

ROWS_NAME = "rows-{}.parquet"


class Facts(NamedTuple):
    """What holds for all rows.

    Attributes:
        codebook_size: codes are below this.
        audio_codebook_size: audio codes are below this; 0: there are none.
        grid: (t, h, w) of rows that do not say it themselves; None: unknown.
        column: where the codes are, in formats with named columns.
        audio: what made the audio codes, as a store's card has it; None: nothing says it.
    """

    codebook_size: int
    audio_codebook_size: int = 0
    grid: tuple[int, int, int] | None = None
    column: str = "codes"
    audio: Mapping[str, Any] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return np.dtype(np.uint16 if self.codebook_size <= 65_536 else np.uint32)


class Row(NamedTuple):
    """One clip.

    Attributes:
        codes: in raster order, of shape (t, h, w) or flat.
        columns: the store's other columns, as far as they are known.
    """

    codes: Integer[np.ndarray, ...]
    columns: dict[str, Any]


class Format(Protocol):
    """A module of this package."""

    HOLDS_COLUMNS: bool
    """The format itself holds the store's other columns."""

    def write(self, folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
        """Writes a split below `folder` and returns its files. `rows` is read once; memory holds some of them."""

    def find(self, folder: Path, splits: Splits) -> dict[str, list[Path]]:
        """The files of each split.

        Raises:
            UsageError: it cannot be told of which split a file is.
        """

    def count(self, files: list[Path], facts: Facts, split: str) -> int:
        """Rows in the files of a split."""

    def read(self, files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
        """The rows of a split, in order."""


def to_json(columns: dict[str, Any]) -> bytes:
    """A row's columns as JSON, for formats without such types: pixel frames in base64, audio codes as numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {_BASE64: base64.b64encode(value).decode()}
        return value.tolist()

    return json.dumps(columns, sort_keys=True, default=plain).encode()


def from_json(data: bytes) -> dict[str, Any]:
    """The columns that `to_json` wrote."""

    def plain(found: dict[str, Any]) -> Any:
        return base64.b64decode(found[_BASE64]) if found.keys() == {_BASE64} else found

    return dict(json.loads(data, object_hook=plain))


_BASE64 = "base64"


def blocks(flat: Integer[np.ndarray, " n"], grid: tuple[int, int, int] | None, at: Path) -> Integer[np.ndarray, "b s"]:
    """A stream of codes, cut into clips.

    Raises:
        UsageError: the grid is unknown, or the stream is no whole number of clips.
    """
    if grid is None:
        raise UsageError("nothing says how many codes a clip has", at=str(at), hint="give --grid t,h,w")
    size = int(np.prod(grid))
    if len(flat) % size:
        raise UsageError(f"{len(flat)} codes are no whole number of clips of {grid}", at=str(at), hint="check --grid")
    return flat.reshape(-1, size)


def same_grid(rows: Iterable[Row], name: str) -> Iterator[Row]:
    """The rows, as long as they all have the first one's shape.

    Raises:
        UsageError: one has not.
    """
    shape: tuple[int, ...] | None = None
    for row in rows:
        shape = shape or row.codes.shape
        if row.codes.shape != shape:
            raise UsageError(
                f"{name} holds clips of one size: {shape} first, then {row.codes.shape}",
                hint="export to hf or webdataset, or make a store of one grid",
            )
        yield row
