"""What readers of others make of a store's folder and of `*.parquet` in it: exactly its rows.

Ray Data's is tried in tests/pipelines/test_ray_data.py; daft by hand (0.7.26 reads `*.parquet`, as fastparquet cannot).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from schemas.clips import reject_row
from tests.tokens.making import codes_of_clip
from tests.tokens.stores import row_of, some_rows, store_of
from vtok import artefacts
from vtok.files import atomic_file
from vtok.tokens.parts import write_tokens

Found = list[tuple[str, str, list[int]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two splits, two views of some clips, a part all of whose clips were rejected; another part is being written."""
    rows = some_rows()
    rows["train-00000.mirrored.parquet"] = [{**row, "view_id": "mirrored"} for row in rows["train-00000.parquet"]]
    folder = store_of(tmp_path_factory.mktemp("readers") / "tokens", rows)
    _add_part_of_rejects(folder)
    with atomic_file(folder / "train-00009.parquet") as stream:
        stream.write(b"half")
        stream.flush()
        yield folder
        stream.write(b"")


def _add_part_of_rejects(folder: Path) -> None:
    """Seals the store anew with one part more."""
    plan, card, index = artefacts.load_plan(folder), artefacts.load(folder), artefacts.load_index(folder).to_pylist()
    more = plan.model_copy(update={"units": [*plan.units, "train-00002.parquet"]})
    artefacts.replan(folder, plan, more, set(more.units))
    part = write_tokens(
        folder / "train-00002.parquet",
        [],
        tokenizer=card.facts["tokenizer"],
        codebook_size=64,
        grid=None,
        plan=plan.fingerprint,
        split="train",
        rejects=[reject_row("tokens", "a.avi", "a", "corrupt", "bad block")],
        row_group_rows=4,
        point="",
    )
    keys = ("path", "split", "rows", "bytes", "sha256")
    parts = [artefacts.Part(**{key: row[key] for key in keys}, footer_sha256=row["footer_sha256"]) for row in index]
    artefacts.seal(folder, more, [*parts, part], counts=dict(card.counts), facts=card.facts)


def _expected() -> Found:
    views = [(n, "whole") for n in range(18)] + [(n, "mirrored") for n in range(3, 12)]
    return sorted((row_of(n, "train")["clip_id"], view, codes_of_clip(n, 64).tolist()) for n, view in views)


def _found(rows: list[dict[str, Any]]) -> Found:
    return sorted((row["clip_id"], row["view_id"], [int(code) for code in row["codes"]]) for row in rows)


def _duckdb(what: str) -> list[dict[str, Any]]:
    import duckdb

    return duckdb.sql(f"select clip_id, view_id, codes from read_parquet('{what}')").to_arrow_table().to_pylist()


def _polars(what: str, **options: Any) -> list[dict[str, Any]]:
    import polars

    return polars.scan_parquet(what, **options).select("clip_id", "view_id", "codes").collect().to_dicts()


def _pandas(what: Any) -> list[dict[str, Any]]:
    import pandas

    return pandas.read_parquet(what)[["clip_id", "view_id", "codes"]].to_dict("records")


READERS: dict[str, tuple[str, Callable[[Path], list[dict[str, Any]]]]] = {
    "pyarrow folder": ("pyarrow", lambda folder: pq.read_table(folder).to_pylist()),
    "pyarrow files": ("pyarrow", lambda folder: pq.read_table(sorted(map(str, folder.glob("*.parquet")))).to_pylist()),
    "pyarrow dataset": ("pyarrow", lambda folder: ds.dataset(folder).to_table().to_pylist()),
    "pandas folder": ("pandas", _pandas),
    "pandas files": ("pandas", lambda folder: _pandas(sorted(map(str, folder.glob("*.parquet"))))),
    "duckdb folder": ("duckdb", lambda folder: _duckdb(str(folder))),
    "duckdb glob": ("duckdb", lambda folder: _duckdb(f"{folder}/*.parquet")),
    "duckdb deep glob": ("duckdb", lambda folder: _duckdb(f"{folder}/**/*.parquet")),
    "polars glob": ("polars", lambda folder: _polars(f"{folder}/*.parquet")),
    "polars deep glob": ("polars", lambda folder: _polars(f"{folder}/**/*.parquet")),
}


@pytest.mark.parametrize("reader", READERS)
def test_exactly_the_rows(folder: Path, reader: str) -> None:
    module, read = READERS[reader]
    pytest.importorskip(module, reason=f"{module} is not installed")
    assert _found(read(folder)) == _expected()


def test_polars_reads_a_folder_without_the_hidden_names(folder: Path) -> None:
    """It refuses folders that hold anything else than Parquet files, unless told that `_` and `.` hide a name."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    if "hidden_file_prefix" not in inspect.signature(polars.scan_parquet).parameters:
        pytest.skip("this polars cannot be told which names are hidden")
    assert _found(_polars(str(folder), hidden_file_prefix=["_", "."])) == _expected()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("what", ["folder", "data_dir", "glob"])
def test_hugging_face_datasets(folder: Path, what: str, streaming: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets are not installed")
    options = {"streaming": streaming, **({} if streaming else {"cache_dir": str(tmp_path)})}
    found = {
        "folder": lambda: datasets.load_dataset(str(folder), **options),
        "data_dir": lambda: datasets.load_dataset("parquet", data_dir=str(folder), **options),
        "glob": lambda: datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", **options),
    }[what]()
    assert set(found) == ({"train"} if what == "glob" else {"train", "test"})
    assert _found([row for split in found.values() for row in split]) == _expected()


def test_the_index_is_parquet_under_a_name_that_no_reader_takes(folder: Path) -> None:
    index = pq.read_table(folder / "_index.table")
    assert sum(index["rows"].to_pylist()) == 27 and index["rejects"].to_pylist()[-1] == 1
    assert pq.read_table(folder / "_rejects.table")["reason"].to_pylist() == ["corrupt"]
    assert [path.name for path in folder.glob("_*.parquet")] == []
