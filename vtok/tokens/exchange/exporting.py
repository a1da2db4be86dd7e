"""A token store in another tool's format."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import UsageError
from vtok import console
from vtok.files import TEMP_MARK, sha256_of, write_table
from vtok.locks import exclusive
from vtok.tokens.exchange import FORMATS
from vtok.tokens.exchange.base import ROWS_NAME, Facts, Row
from vtok.tokens.exchange.facts import Exported, write_facts
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
    size, audio_size = store.codebook_size, int(store.card.facts.get("audio_codebook_size", 0))
    with _workplace(out) as temp:
        files: list[Path] = []
        with console.Progress("export", sum(wanted.values()), "clips") as bar:
            for split in wanted:
                columns: list[dict[str, Any]] = []
                rows = _rows(store, split, None if form.HOLDS_COLUMNS else columns, bar)
                files += form.write(temp, split, rows, Facts(size, audio_size))
                if columns:
                    files.append(temp / ROWS_NAME.format(split))
                    schema = pa.schema([field for field in store.schema if field.name != "codes"])
                    write_table(files[-1], pa.Table.from_pylist(columns, schema=schema))
        facts = Exported(
            format=format_name,
            store=store.card.fingerprint,
            tokenizer=store.tokenizer,
            codebook_size=size,
            audio_codebook_size=audio_size,
            audio=store.card.facts.get("audio"),
            grid=None if store.ragged else store.grid,
            mode=store.card.facts["mode"],
            classes=store.classes,
            splits=wanted,
            files={path.relative_to(temp).as_posix(): sha256_of(path) for path in sorted(set(files))},
        )
        write_facts(temp, facts)
        temp.rename(out)
    return wanted


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, of one name and locked: what a killed export left in it is swept by the next one.

    Raises:
        UsageError: another export to `out` is at work, or has just ended.
    """
    temp = out.with_name(f"{TEMP_MARK}{out.name}")
    temp.mkdir(parents=True, exist_ok=True)
    before = temp.stat().st_ino
    with exclusive(temp):
        if out.exists() or not temp.exists() or temp.stat().st_ino != before:  # renamed or removed before it was locked
            raise UsageError("another export to this folder was at work", at=str(out), hint="look at what it made")
        for left in temp.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield temp
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise


def _rows(store: TokenStore, split: str, columns: list[dict[str, Any]] | None, bar: console.Progress) -> Iterator[Row]:
    """The rows; their columns go into the list, if there is one."""
    for row in store.rows(split):
        codes = row.pop("codes").reshape(row["grid_t"], row["grid_h"], row["grid_w"])
        if columns is not None:
            columns.append(row)
        bar.advance(1)
        yield Row(codes, row)
