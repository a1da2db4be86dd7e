"""Parquet parts that describe themselves: JSON under one key of the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.card import Plan
from schemas.errors import IntegrityError
from vtok.artefacts import Part
from vtok.files import read_table, sha256_of, write_table

METADATA_KEY = b"vtok"


def write_part(path: Path, table: pa.Table, metadata: dict[str, Any], *, point: str, **options: Any) -> Part:
    """Writes a part with its description in the footer.

    Args:
        path: where.
        table: its rows.
        metadata: JSON-compatible; must hold `plan`, `split` and `rejects`.
        point: prefix of the crash points.
        options: for `vtok.files.write_table`.
    """
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    write_table(path, table.replace_schema_metadata({METADATA_KEY: text.encode()}), point=point, **options)
    return Part(path.name, metadata["split"], table.num_rows, path.stat().st_size, sha256_of(path), metadata["rejects"])


def read_metadata(path: Path) -> dict[str, Any]:
    """The description in a part's footer.

    Raises:
        IntegrityError: the file is truncated or damaged, or no part of vtok's.
    """
    try:
        with pq.ParquetFile(path) as file:
            return dict(json.loads(file.metadata.metadata[METADATA_KEY]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            "the part's footer cannot be read",
            at=str(path),
            hint="delete the file and run the command that made it again; only this part is made anew",
        ) from error


def recover_part(path: Path, plan: Plan) -> Part:
    """The description of a part that an earlier run finished, after reading and checking all its pages.

    Raises:
        IntegrityError: damaged, or made to another plan.
    """
    metadata = read_metadata(path)
    if metadata.get("plan") != plan.fingerprint:
        raise IntegrityError("made to another plan", at=str(path))
    rows = read_table(path).num_rows
    return Part(path.name, metadata["split"], rows, path.stat().st_size, sha256_of(path), metadata["rejects"])
