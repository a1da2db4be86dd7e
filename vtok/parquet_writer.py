"""How every Parquet file of vtok's is written: each setting is here, so that no library's default decides a byte.

Equal rows must make equal bytes, also with the Arrow of next year, whose defaults are others (data pages of version 2,
rows in a page, page indexes). `tests/test_parquet_writer.py` compares this list with the signature of pyarrow's writer,
so that a setting which is new there is noticed. What pyarrow lets nobody set stays: the footer names Arrow's version
(`created_by`), and zstd may compress otherwise in another version. https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 1 << 20

SETTINGS: dict[str, Any] = {
    "data_page_version": "1.0",
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": True,
    "dictionary_pagesize_limit": 1 << 20,
    "column_encoding": None,
    "use_byte_stream_split": False,
    "data_page_size": 1 << 20,
    "max_rows_per_page": 20_000,
    "write_batch_size": 1024,
    "write_statistics": True,
    "write_page_index": False,
    "write_page_checksum": True,
    "bloom_filter_options": None,
    "use_content_defined_chunking": False,
    "sorting_columns": None,
    "store_schema": True,
    "use_compliant_nested_type": True,
    "store_decimal_as_integer": False,
    "use_deprecated_int96_timestamps": False,
    "write_time_adjusted_to_utc": False,
    "coerce_timestamps": None,
    "allow_truncated_timestamps": False,
    "encryption_properties": None,
    "flavor": None,
    "filesystem": None,
}
"""The settings of `pyarrow.parquet.ParquetWriter` for every file; a kind of part may say otherwise for its columns."""

LATER = ("max_rows_per_page", "bloom_filter_options", "use_content_defined_chunking", "write_time_adjusted_to_utc")
"""Settings that the oldest supported pyarrow does not have: it limits no page's rows, and has nothing of the others."""


def settings(**options: Any) -> dict[str, Any]:
    """SETTINGS with other values for some, as far as this pyarrow has them."""
    known = inspect.signature(pq.ParquetWriter.__init__).parameters
    missing = {name for name in LATER if name not in known}
    return {name: value for name, value in {**SETTINGS, **options}.items() if name not in missing}


@contextmanager
def parquet_writer(sink: IO[bytes], schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """A writer of a Parquet file with zstd and page checksums; `write_rows` adds tables.

    Args:
        sink: where the bytes go.
        schema: of the file.
        options: settings that differ from SETTINGS.
    """
    with pq.ParquetWriter(sink, schema, **settings(**options)) as writer:
        yield writer


def write_rows(writer: pq.ParquetWriter, table: pa.Table, row_group_rows: int = ROW_GROUP_ROWS) -> None:
    """Adds a table; no rows make no row group (Hugging Face datasets cannot read one without rows)."""
    if table.num_rows:
        writer.write_table(table, row_group_rows)
