"""No default of pyarrow's decides a byte of a Parquet file."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokens.making import token_row
from vtok.files import read_table, table_bytes, write_table
from vtok.parquet_writer import LATER, SETTINGS, parquet_writer, write_rows
from vtok.tokens.parts import write_tokens

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "self",
    "where",
    "schema",
    "table",
    "options",
    "kwargs",
    "row_group_size",  # given with every table
    "writer_engine_version",  # does nothing
}
"""Parameters of pyarrow's writers that are no setting of a file."""


def _table() -> pa.Table:
    rows = range(50)
    return pa.table(
        {
            "name": [f"clip-{n % 7}" for n in rows],
            "number": pa.array(rows, pa.int32()),
            "fps": [n / 3 for n in rows],
            "codes": pa.array([[n % 5, n % 3] for n in rows], pa.list_(pa.uint16())),
            "label": pa.array([None if n % 4 else n for n in rows], pa.int32()),
        }
    )


def _part(path: Path) -> bytes:
    rows = [token_row(n, "train", 64) for n in range(6)]
    about = {"tokenizer": "a" * 64, "codebook_size": 64, "grid": (2, 2, 3), "plan": "p", "split": "train"}
    write_tokens(path, rows, **about, rejects=[], row_group_rows=4, point="")  # type: ignore[arg-type]
    return path.read_bytes()


def test_every_setting_of_pyarrows_writer_is_said() -> None:
    there = {
        name
        for function in (pq.ParquetWriter.__init__, pq.write_table)
        for name in inspect.signature(function).parameters
        if name not in ELSEWHERE
    }
    assert there - set(SETTINGS) == set(), "pyarrow has settings whose defaults decide: say them in SETTINGS"
    assert set(SETTINGS) - there <= set(LATER)


def test_other_defaults_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an Arrow that writes data pages of version 2, page indexes and no dictionaries unless told otherwise."""
    table, part = table_bytes(_table()), _part(tmp_path / "a.parquet")
    other: dict[str, Any] = {
        "data_page_version": "2.0",
        "version": "1.0",
        "compression": "gzip",
        "compression_level": 9,
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_index": True,
        "write_page_checksum": False,
        "write_batch_size": 7,
        "dictionary_pagesize_limit": 10,
        "max_rows_per_page": 3,
        "use_content_defined_chunking": True,
        "store_schema": False,
        "use_compliant_nested_type": False,
    }
    parameters = inspect.signature(pq.ParquetWriter.__init__).parameters
    kept = [p for p in parameters.values() if p.default is not p.empty]
    monkeypatch.setattr(pq.ParquetWriter.__init__, "__defaults__", tuple(other.get(p.name, p.default) for p in kept))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, _table().schema) as writer:
        writer.write_table(_table())
    assert sink.getvalue() != table, "the other defaults are at work"
    assert table_bytes(_table()) == table
    assert _part(tmp_path / "b.parquet") == part


def test_the_bytes_of_a_small_part(tmp_path: Path) -> None:
    """With the pinned Arrow: the footer names its version, and another zstd may compress otherwise."""
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("pyarrow=="))
    if pa.__version__ != pinned.partition("==")[2]:
        pytest.skip(f"the bytes are those of {pinned}")
    found = [hashlib.sha256(data).hexdigest() for data in (table_bytes(_table()), _part(tmp_path / "a.parquet"))]
    assert found == [
        "9e0a2d6e60392d32670f836ab6e81733be66977a7e16b121a4b831da5ce9a084",
        "ec6752507f43eaf877e2dce37ae8f44e9bcdf0ba82c0ce05e5573242ceb4ebe8",
    ]


def test_a_table_without_rows_has_no_row_group(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", _table().schema.empty_table())
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 0
    assert read_table(tmp_path / "a.parquet") == _table().schema.empty_table()
    sink = io.BytesIO()
    with parquet_writer(sink, _table().schema) as writer:
        for table in (_table(), _table()[:0], _table()):
            write_rows(writer, table)
    assert pq.read_metadata(io.BytesIO(sink.getvalue())).num_row_groups == 2


def test_nobody_else_writes_parquet() -> None:
    """In the packages; a test may write what others would."""
    for package in ("schemas", "vtok", "pipelines", "trainers"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "parquet_writer.py":
                continue
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
            writers = {"ParquetWriter", "write_to_dataset", "write_dataset", "sink_parquet", "to_parquet"}
            assert not names & writers, path
            assert not any(
                isinstance(call, ast.Attribute) and ast.unparse(call) in ("pq.write_table", "parquet.write_table")
                for call in calls
            ), path
