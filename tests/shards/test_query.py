"""One SELECT over three views, and no way out of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from schemas.errors import UsageError, VtokError
from tests import tiny_run
from vtok.shards.query import run_query, text_table

pytest.importorskip("duckdb", reason="duckdb is not installed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder, ("clips", "shards"))
    return folder


def test_views(finished: Path) -> None:
    by_split = "select split, count(*) as n from clips group by split order by split"
    assert run_query(by_split, finished, 10) == (["split", "n"], [("test", 6), ("train", 11)], False)
    assert run_query(by_split, finished / "clips", 10).rows == [("test", 6), ("train", 12)]
    assert run_query("select stage, count(*) from rejects group by 1 order by 1", finished, 10).rows == [
        ("clips", 2),
        ("shards", 1),
    ]
    assert run_query("from rejects", finished / "shards", 10).rows[0][3] == "corrupt"
    assert run_query("select path from parts order by 1", finished, 10).rows == [
        ("test-00000.tar",),
        ("train-00000.tar",),
    ]
    assert run_query("with a as (from clips) select sum(frames) from a", finished, 10).rows == [(17 * 4,)]


def test_limit(finished: Path) -> None:
    answer = run_query("select clip_id from clips order by 1", finished, 5)
    assert len(answer.rows) == 5 and answer.more
    assert not run_query("select clip_id from clips", finished, 17).more


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{}')",
        "select * from read_text('{}')",
        "select * from '{}'",
        "select * from glob('{}')",
        "select * from tables",
        "select * from finished",
        "copy clips to '{}.csv'",
        "attach '{}.db'",
        "set enable_external_access = true",
        "install httpfs",
        "pragma database_list",
        "create table x as select 1",
        "drop view clips",
        "insert into clips select * from clips",
        "select 1; select 2",
        "",
        "selec 1",
        "select nosuch from clips",
        "select * from nosuch",
        "select 'unfinished",
    ],
)
def test_what_is_no_question_to_the_manifest(finished: Path, tmp_path: Path, query: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as caught:
        run_query(query.format(secret), finished, 10)
    assert "clips, rejects, parts" in caught.value.hint
    assert list(tmp_path.iterdir()) == [secret]


def test_without_duckdb(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(VtokError, match="DuckDB is not installed") as caught:
        run_query("select 1", finished, 10)
    assert "pip install" in caught.value.hint


def test_not_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no clips or shards here"):
        run_query("select 1", tmp_path, 10)


def test_text_table() -> None:
    text = text_table(["name", "n"], [("a\nb", 1), (None, 200), ("x" * 80, None)])
    assert text.splitlines() == [
        f"{'name':60}     n",
        f"{'-' * 60}  ----",
        f"{'a b':60}     1",
        f"{'null':60}   200",
        f"{'x' * 57}...  null",
    ]
    assert text_table(["a"], []).splitlines() == ["a", "-"]
