"""Parquet as Hugging Face datasets reads it: `data/<split>-NNNNN.parquet`, a list of codes a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import IntegrityError, UsageError
from schemas.tokens import tokens_schema
from vtok.files import write_table
from vtok.tokens.exchange.base import Facts, Row
from vtok.tokens.exchange.splits import Splits, by_split

HOLDS_COLUMNS = True
_FILE_ROWS, _GROUP_ROWS = 8192, 1000


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """Writes `data/<split>-NNNNN.parquet`, all with the store's schema: a column of nulls has its type, too."""
    files: list[Path] = []
    stream = iter(rows)
    schema = tokens_schema(facts.codebook_size, facts.audio_codebook_size)
    while some := list(itertools.islice(stream, _FILE_ROWS)):
        table = pa.Table.from_pylist([{**row.columns, "codes": row.codes.reshape(-1)} for row in some], schema=schema)
        path = folder / "data" / f"{split}-{len(files):05d}.parquet"
        write_table(path, table, row_group_size=_GROUP_ROWS)
        files.append(path)
    return files


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    """Parquet files: `data/train-00000-of-00002.parquet`, `default/test/0000.parquet`, `validation.parquet`, ..."""
    return by_split(folder, "*.parquet", splits)


def count(files: list[Path], facts: Facts, split: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files)


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    """Page checksums, where there are any, are verified."""
    for path in files:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if facts.column not in file.schema_arrow.names:
                    known = ", ".join(file.schema_arrow.names)
                    raise UsageError(f"no column {facts.column!r}", at=str(path), hint=f"--column: one of {known}")
                if not hasattr(kind := file.schema_arrow.field(facts.column).type, "value_type"):
                    raise UsageError(f"{facts.column} is {kind}, not lists of codes", at=str(path), hint="see --column")
                for batch in file.iter_batches(_GROUP_ROWS):
                    codes = batch.column(batch.schema.get_field_index(facts.column))
                    others = batch.drop_columns([facts.column]).to_pylist()
                    for number, columns in enumerate(others or [{}] * len(batch)):
                        yield Row(np.asarray(codes[number].values), columns)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"damaged: {str(error).splitlines()[0]}", at=str(path), hint="export again") from error
