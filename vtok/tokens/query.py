"""SQL over a token store: the view `tokens` (one row a view of a clip), `parts` and `rejects`.

DuckDB reads Parquet without looking at page checksums. So the sha256 of every part is compared with the index first,
and the pages are read by pyarrow, which verifies their checksums, column by column as the query needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from schemas.paths import COPY_FIRST, local_only
from schemas.tokens import DEFAULTS
from vtok import artefacts
from vtok.shards.query import Answer, query_tables
from vtok.tokens.store import TokenStore

_OLD = "_tokens_of_version_1"


def run_query(query: str, folder: Path, limit: int) -> Answer:
    """Runs one SELECT over the views `tokens`, `parts` and `rejects` of a store.

    Args:
        query: SQL.
        folder: the store.
        limit: rows to return at most.

    Raises:
        UsageError: no finished token store, no SELECT, or DuckDB does not understand it.
        IntegrityError: a part is not the one that was written.
        VtokError: DuckDB is not installed.
    """
    store = TokenStore(local_only(folder, "vtok tokens sql", COPY_FIRST))
    old = store.card.schema_version == 1

    def tables() -> dict[str, Any]:
        rejects, parts = artefacts.load_rejects(store.folder), artefacts.load_index(store.folder)
        return {_OLD if old else "tokens": tokens_dataset(store), "parts": parts, "rejects": rejects}

    return query_tables(query, tables, limit, describe="tokens", prepare=_completed() if old else "")


def tokens_dataset(store: TokenStore) -> ds.Dataset:
    """The rows of a store as a pyarrow dataset whose pages are verified when they are read.

    Columns that version 1 lacks are null in it.

    Raises:
        IntegrityError: a part is not the one that was written.
    """
    paths = [str(artefacts.verify_part(store.folder, part["path"], part["sha256"])) for part in store.parts]
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.dataset(paths, schema=store.schema, format=ds.ParquetFileFormat(default_fragment_scan_options=options))


def _completed() -> str:
    """The view `tokens` of a store of version 1, with what newer columns mean in it."""
    values = {name: repr(value) for name, value in DEFAULTS.items() if value is not None}
    replaced = ", ".join(f"coalesce({name}, {value}) as {name}" for name, value in values.items())
    return f"create view tokens as select * replace ({replaced}) from {_OLD}"
