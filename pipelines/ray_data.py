"""A token store as a Ray Dataset (https://docs.ray.io/en/latest/data/data.html), for those who train under Ray.

Ray's own `read_parquet` reads the parts too, but verifies nothing (2.60 takes `page_checksum_verification=True` and
ignores it). Here every part is compared with its sha256 and its page checksums where it is read; a damaged one fails
its task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import UsageError
from schemas.paths import ObjectPath, as_path
from vtok.tokens.parts import complete, open_verified, require_maker
from vtok.tokens.store import TokenStore


def read_tokens(folder: str | Path, split: str, *, columns: list[str] | None = None) -> Any:
    """The rows of a split as a `ray.data.Dataset`, in the columns of schemas/tokens.py; one block a row group at least.

    Args:
        folder: the store; workers must find it under the same path.
        split: which rows.
        columns: only these.

    Raises:
        UsageError: there is no such store, split or column.
    """
    import ray.data

    store = TokenStore(folder)
    parts = [part for part in store.parts if part["split"] == split and part["rows"]]
    if not parts:
        raise UsageError(f"the store has no split {split!r}", at=str(store.folder), hint=f"it has {store.splits()}")
    unknown = sorted(set(columns or []) - set(store.schema.names))
    if unknown:
        raise UsageError(f"no column {unknown[0]!r}", at=str(store.folder), hint=", ".join(store.schema.names))
    items = [{"path": part["path"], "sha256": part["sha256"]} for part in parts]
    reader = _Reader(store, columns)
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        reader, batch_size=1, batch_format="pyarrow"
    )


class _Reader:
    """Turns names of parts into their rows, in the workers."""

    def __init__(self, store: TokenStore, columns: list[str] | None) -> None:
        local = not isinstance(store.folder, ObjectPath)  # workers have a current folder of their own
        self._folder = str(store.folder.absolute() if local else store.folder)
        self._schema, self._columns = store.schema, columns
        self._maker, self._unchecked = (store.tokenizer, store.codebook_size), store.unchecked

    def __call__(self, items: pa.Table) -> Iterator[pa.Table]:
        for item in items.to_pylist():
            path = as_path(self._folder) / item["path"]
            with open_verified(path, item["sha256"], unchecked=self._unchecked) as file:
                require_maker(file.metadata, path, *self._maker)
                for group in range(file.num_row_groups):
                    yield complete(file.read_row_group(group, columns=self._columns), self._schema, self._columns)
