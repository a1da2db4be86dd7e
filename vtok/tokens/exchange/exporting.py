"""A token store in another tool's format."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import UsageError
from vtok import console
from vtok.files import TEMP_MARK, sha256_of, write_json, write_table
from vtok.tokens.exchange import FORMATS
from vtok.tokens.exchange.base import FACTS_NAME, ROWS_NAME, Facts, Row
from vtok.tokens.store import TokenStore


def export_store(store: TokenStore, out: Path, format_name: str, splits: list[str] | None = None) -> dict[str, int]:
    """Writes the clips of a store; every page and part is verified on the way.

    Args:
        store: what to export.
        out: a new folder; it appears when it is whole.
        format_name: a key of `FORMATS`.
        splits: which; None: all.

    Returns:
        Clips of each split.

    Raises:
        UsageError: unknown format or split, `out` is there already, or the format cannot hold the store's clips.
        IntegrityError: the store is damaged.
    """
    if format_name not in FORMATS:
        raise UsageError(f"no format {format_name!r}", hint=f"one of {', '.join(FORMATS)}")
    counts = store.splits()
    if missing := [split for split in splits or [] if split not in counts]:
        raise UsageError(f"the store has no split {missing[0]!r}", hint=f"it has {', '.join(counts)}")
    if out.exists():
        raise UsageError("there is something already", at=str(out), hint="give the name of a new folder")
    form = FORMATS[format_name]
    wanted = {split: rows for split, rows in counts.items() if rows and (splits is None or split in splits)}
    temp = out.with_name(f"{TEMP_MARK}{out.name}-{uuid.uuid4().hex[:8]}")
    temp.mkdir(parents=True)
    try:
        files: list[Path] = []
        with console.Progress("export", sum(wanted.values()), "clips") as bar:
            for split in wanted:
                columns: list[dict[str, Any]] = []
                rows = _rows(store, split, None if form.HOLDS_COLUMNS else columns, bar)
                files += form.write(temp, split, rows, Facts(store.codebook_size))
                if columns:
                    files.append(temp / ROWS_NAME.format(split))
                    schema = pa.schema([field for field in store.schema if field.name != "codes"])
                    write_table(files[-1], pa.Table.from_pylist(columns, schema=schema))
        facts = {
            "format": format_name,
            "store": store.card.fingerprint,
            "tokenizer": store.tokenizer,
            "codebook_size": store.codebook_size,
            "audio_codebook_size": int(store.card.facts.get("audio_codebook_size", 0)),
            "grid": None if store.ragged else list(store.grid),
            "mode": store.card.facts["mode"],
            "classes": store.classes,
            "splits": wanted,
            "files": {path.relative_to(temp).as_posix(): sha256_of(path) for path in sorted(set(files))},
        }
        write_json(temp / FACTS_NAME, facts)
        temp.rename(out)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    return wanted


def _rows(store: TokenStore, split: str, columns: list[dict[str, Any]] | None, bar: console.Progress) -> Iterator[Row]:
    """The rows; their columns go into the list, if there is one."""
    for row in store.rows(split):
        codes = row.pop("codes").reshape(row["grid_t"], row["grid_h"], row["grid_w"])
        if columns is not None:
            columns.append(row)
        bar.advance(1)
        yield Row(codes, row)
