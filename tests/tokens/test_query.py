"""SQL over a store: verified before DuckDB gets it, and no way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import IntegrityError, UsageError
from tests.tokens.stores import some_rows, store_of
from vtok.tokens.query import run_query

pytest.importorskip("duckdb", reason="DuckDB is not installed")
OLD = Path(__file__).parent / "store_v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("stores") / "tokens", some_rows())


def test_views(made: Path) -> None:
    by_split = "select split, count(*), sum(len(codes)), max(list_max(codes)) from tokens group by 1 order by 1"
    assert run_query(by_split, made, 10).rows == [("test", 3, 36, 63), ("train", 15, 180, 63)]
    assert run_query("select clip_id from tokens where label = 2 order by 1 limit 2", made, 1) == (
        ["clip_id"],
        [("clip-0002",)],
        True,
    )
    assert run_query("select path, rows from parts order by 1", made, 9).rows[0] == ("test-00000.parquet", 3)
    assert run_query("select count(*) from rejects", made, 9).rows == [(0,)]


def test_a_store_of_version_1_has_the_newer_columns() -> None:
    query = "select view_id, flip, height, decoder, cond_frames is null, count(*) from tokens group by all"
    assert run_query(query, OLD, 9).rows == [("whole", False, -1, "", True, 10)]


@pytest.mark.parametrize(
    "query",
    ["select * from read_text('/etc/hostname')", "copy tokens to 'x.csv'", "drop view tokens", "select 1; select 2"],
)
def test_no_way_out(made: Path, query: str) -> None:
    with pytest.raises(UsageError):
        run_query(query, made, 9)


def test_an_error_names_the_views() -> None:
    with pytest.raises(UsageError) as caught:
        run_query("select nosuch from tokens", OLD, 9)
    assert caught.value.hint == "the views are tokens, parts, rejects; `describe tokens` lists the columns"


def test_a_damaged_part_is_never_asked(tmp_path: Path) -> None:
    folder = store_of(tmp_path / "tokens", some_rows())
    part = folder / "train-00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="sha256"):
        run_query("select count(*) from tokens where split = 'test'", folder, 9)
