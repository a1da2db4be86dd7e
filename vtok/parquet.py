"""Parquet parts that describe themselves: JSON under one key of the file's metadata.

The description ends with a sha256 over the whole file, taken while its own 64 digits are zeros. Page checksums do not
cover the footer, and before the artefact is sealed nothing else vouches for a finished part. Afterwards the index has
the sha256 of every footer, so that it can be trusted without reading the part.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.card import Plan
from schemas.errors import IntegrityError
from schemas.paths import as_path
from vtok.artefacts import Part
from vtok.files import missing_part, open_parquet, read_table, table_bytes, write_bytes
from vtok.parquet_writer import parquet_writer, write_rows

METADATA_KEY = b"vtok"
_SEAL = b'"zz_sha256":"'  # the last key of the description, so that the last occurrence is the right one
_BLANK = b"0" * 64
_MAGIC = b"PAR1"
_TAIL = 64 << 10  # bytes of the end that usually hold the footer


def numbers_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of numbers, none of them missing, as an array that may not be written to.

    Arrow's own `to_numpy` imports pandas first, which takes half a second.

    Raises:
        pa.ArrowTypeError: a number is missing.
    """
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def write_part(path: Path, table: pa.Table, metadata: dict[str, Any], *, point: str, **options: Any) -> Part:
    """Writes a part with its description in the footer.

    Args:
        path: where.
        table: its rows.
        metadata: JSON-compatible; must hold `plan`, `split` and `rejects`.
        point: prefix of the crash points.
        options: for `vtok.files.table_bytes`.
    """
    data = bytearray(table_bytes(table, metadata=_sealed(metadata), **options))
    return _write(path, data, table.num_rows, metadata, point)


def write_part_slices(
    path: Path, slices: Iterable[pa.Table], schema: pa.Schema, metadata: dict[str, Any], *, point: str
) -> Part:
    """`write_part` of rows that come in tables, each a row group: what is in memory is one of them, and the file.

    Args:
        path: where.
        slices: the rows.
        schema: of all of them.
        metadata: as for `write_part`; read after the last slice, so that it may be filled meanwhile.
        point: prefix of the crash points.
    """
    sink, rows = io.BytesIO(), 0
    with parquet_writer(sink, schema) as writer:
        for table in slices:
            write_rows(writer, table)
            rows += table.num_rows
        writer.add_key_value_metadata(_sealed(metadata))
    return _write(path, bytearray(sink.getvalue()), rows, metadata, point)


def _sealed(metadata: dict[str, Any]) -> dict[bytes, bytes]:
    """The description with room for the seal."""
    sealed = {**metadata, "zz_sha256": _BLANK.decode()}
    return {METADATA_KEY: json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()}


def _write(path: Path, data: bytearray, rows: int, metadata: dict[str, Any], point: str) -> Part:
    start = data.rindex(_SEAL) + len(_SEAL)
    data[start : start + 64] = hashlib.sha256(data).hexdigest().encode()
    write_bytes(path, data, point=point)
    digest = hashlib.sha256(data).hexdigest()
    return Part(path.name, metadata["split"], rows, len(data), digest, metadata["rejects"], footer_sha256(data))


def read_metadata(path: Path, keys: tuple[str, ...] = ("plan", "split", "rejects")) -> dict[str, Any]:
    """The description in a part's footer.

    Args:
        path: the part.
        keys: what the description must hold.

    Raises:
        IntegrityError: the file is truncated or damaged, or no part of vtok's.
    """
    return described(read_footer(path), path, keys)


def read_footer(path: Path, sha256: str | None = None) -> pq.FileMetaData:
    """The layout of a Parquet file.

    Args:
        path: the file.
        sha256: what `footer_sha256` gave when it was written; none: the footer is believed.

    Raises:
        IntegrityError: the file is missing, truncated or damaged.
    """
    try:
        if sha256 is None:
            with open_parquet(path) as file:
                return file.metadata
        with as_path(path).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            end = stream.read()
            if len(end) < min(size, _end_bytes(end)):
                stream.seek(max(0, size - _end_bytes(end)))
                end = stream.read()
        if footer_sha256(end) == sha256:
            return pq.read_metadata(pa.BufferReader(_MAGIC + end[-_end_bytes(end) :]))
    except FileNotFoundError as error:
        missing = missing_part(path, error)
        raise IntegrityError(missing.what, at=missing.at, hint=missing.hint) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path) from error
    raise IntegrityError(
        "the part's footer is not the one that was written: its sha256 differs from the index",
        at=str(path),
        hint="delete the file and run the command that made it again; only this part is made anew",
    )


def footer_sha256(data: bytes | bytearray) -> str:
    """sha256, hex, of the end of a Parquet file: its footer, the footer's length and the magic.

    Whoever reads footers only, for the layout of 10,000 parts or what they say of themselves, verifies them by it.

    Args:
        data: the file, or as much of its end.
    """
    return hashlib.sha256(data[-_end_bytes(data) :]).hexdigest()


def _end_bytes(data: bytes | bytearray) -> int:
    """How long the end is, by the length that is stored in it."""
    return int.from_bytes(data[-8:-4], "little") + 8


def described(layout: pq.FileMetaData, path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The description in the footer of an open part; `path` is for messages.

    Raises:
        IntegrityError: there is none, or it lacks a key.
    """
    try:
        found = dict(json.loads(layout.metadata[METADATA_KEY]))
        return {**found, **{key: found[key] for key in keys}}
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> IntegrityError:
    return IntegrityError(
        "the part's footer cannot be read",
        at=str(path),
        hint="delete the file and run the command that made it again; only this part is made anew",
    )


def recover_part(path: Path, plan: Plan) -> Part:
    """The description of a part that an earlier run finished, after checking every byte of it.

    Raises:
        IntegrityError: damaged, or made to another plan.
    """
    return recover_made_to(path, plan.fingerprint)


def recover_made_to(path: Path, fingerprint: str | None) -> Part:
    """`recover_part` by what the description says under `plan`; None: whatever it says.

    Raises:
        IntegrityError: damaged, or something else is there.
    """
    metadata = read_metadata(path)
    if fingerprint is not None and metadata["plan"] != fingerprint:
        raise IntegrityError("made to another plan", at=str(path))
    data = bytearray(path.read_bytes())
    end, start = footer_sha256(data), data.rfind(_SEAL) + len(_SEAL)
    digest, seal = hashlib.sha256(data).hexdigest(), bytes(data[start : start + 64])
    data[start : start + 64] = _BLANK
    if hashlib.sha256(data).hexdigest().encode() != seal:
        raise IntegrityError("its bytes are not those that were written", at=str(path))
    rows = read_table(path).num_rows
    return Part(path.name, metadata["split"], rows, len(data), digest, metadata["rejects"], end)
