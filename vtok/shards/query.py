"""SQL over the manifest, the rejects and the parts of clips or shards, in a DuckDB that can reach nothing else.

The database is in memory and sees three tables; files, the network, extensions, Python variables and settings are shut
off, and only one SELECT is run. DuckDB is optional: `pip install 'vtok[sql]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.clips import CLIPS
from schemas.errors import UsageError, VtokError
from schemas.shards import MANIFEST_NAME
from vtok import artefacts
from vtok.files import read_table
from vtok.inspect_folder import data_folders
from vtok.sealed import sealed_path

_SHUT = (
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET lock_configuration = true",
)
_WIDEST = 60  # characters of a column


class Answer(NamedTuple):
    """The rows of an answer, and whether there were more than the limit."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool


def views(path: Path) -> dict[str, pa.Table]:
    """`clips` (one row a clip), `rejects` and `parts` of clips or shards.

    Of a run: the clips and parts of its shards, if it has them, and the rejects of clips and shards.

    Raises:
        UsageError: there are none, or they are not finished.
        IntegrityError: a file is damaged.
    """
    folders = data_folders(path)
    folder = folders[-1]
    card = artefacts.load(folder)
    if card.kind not in ("clips", "shards"):
        raise UsageError(f"this is a {card.kind} folder, not clips or shards", at=str(folder))
    parts = artefacts.load_index(folder)
    if card.kind == "shards":
        paths = [sealed_path(folder, card, MANIFEST_NAME)]
    else:
        paths = [artefacts.verify_part(folder, row["path"], row["sha256"]) for row in parts.to_pylist()]
    clips = pa.concat_tables([read_table(path, schema=CLIPS) for path in paths])
    rejects = pa.concat_tables([artefacts.load_rejects(each) for each in folders])
    return {"clips": clips, "rejects": rejects, "parts": parts}


def run_query(query: str, path: Path, limit: int) -> Answer:
    """Runs one SELECT over the `views` of a run, clips or shards. Raises what `query_tables` raises."""
    return query_tables(query, lambda: views(path), limit, describe="clips")


def query_tables(
    query: str, tables_of: Callable[[], Mapping[str, Any]], limit: int, *, describe: str, prepare: str = ""
) -> Answer:
    """Runs one SELECT over Arrow tables or datasets.

    Args:
        query: SQL.
        tables_of: gives the tables (or pyarrow datasets, which are read as far as the query needs) by their name.
        limit: rows to return at most.
        describe: the table that the hint of an error names.
        prepare: a trusted statement that is run before, e.g. to make a view.

    Raises:
        UsageError: it is no SELECT, or DuckDB does not understand it.
        VtokError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise VtokError("DuckDB is not installed", at="import duckdb", hint="pip install 'vtok[sql]'") from None
    tables = tables_of()
    names = ", ".join(name for name in dict.fromkeys([describe, *tables]) if not name.startswith("_"))
    hint = f"the views are {names}; `describe {describe}` lists the columns"
    with duckdb.connect(":memory:") as connection:
        for name, table in tables.items():
            connection.register(name, table)
        if prepare:
            connection.execute(prepare)
        for setting in _SHUT:
            connection.execute(setting)
        try:
            statements = connection.extract_statements(query)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                found = ", ".join(str(kind).rpartition(".")[2] for kind in kinds) or "nothing"
                raise UsageError(f"one SELECT is wanted, not {found}", at=query, hint=hint)
            result = connection.execute(statements[0])
            columns = [str(column[0]) for column in result.description or []]
            rows = result.fetchmany(limit + 1)
        except duckdb.Error as error:
            what = str(error).strip().splitlines()[0]
            raise UsageError(f"DuckDB: {what}", at=query, hint=hint) from None
    return Answer(columns, rows[:limit], len(rows) > limit)


def text_table(columns: list[str], rows: list[tuple[Any, ...]]) -> str:
    """Columns under their names; numbers to the right, long texts cut."""
    cells = [[_text(value) for value in row] for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float | None) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(values: list[str]) -> str:
        padded = [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, cells)])


def _text(value: Any) -> str:
    if value is None:
        return "null"
    text = f"{value:,.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
