"""An import keeps every clip in its split, or says why it cannot."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import IntegrityError, UsageError
from tests.tokens.making import GRID, TOKENIZER, make_store
from vtok.cli import main
from vtok.tokens.exchange import FORMATS, ds
from vtok.tokens.exchange.base import Facts, Row
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.exchange.splits import Splits, by_split, indices_by_split
from vtok.tokens.store import TokenStore

KNOWN = Origin(TOKENIZER, 64, GRID)
NAMES = [name for name in FORMATS if name != "litdata" or importlib.util.find_spec("litdata") is not None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("stores") / "tokens"
    return TokenStore(make_store(folder, {"train": [3], "dev": [4], "train-b": [2]}))


@pytest.mark.parametrize("name", NAMES)
def test_splits_of_any_name_come_back(store: TokenStore, tmp_path: Path, name: str) -> None:
    assert export_store(store, tmp_path / "out", name) == {"train": 3, "dev": 4, "train-b": 2}
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    back = TokenStore(tmp_path / "back")
    assert back.splits() == {"train": 3, "dev": 4, "train-b": 2}
    for split in store.splits():
        assert [row["clip_id"] for row in back.rows(split)] == [row["clip_id"] for row in store.rows(split)]


@pytest.mark.parametrize("name", ["ds", "webdataset", "mds", "hdf5", "hf"])
def test_an_export_that_lacks_a_split_or_has_one_more_is_refused(store: TokenStore, tmp_path: Path, name: str) -> None:
    export_store(store, tmp_path / "out", name)
    facts = (tmp_path / "out/vtok.json").read_text()
    if name == "hdf5":
        with h5py.File(tmp_path / "out/tokens.h5", "a") as file:
            del file["dev_data"]
    else:
        for path in [path for path in (tmp_path / "out").rglob("*dev*") if path.exists()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(IntegrityError, match="not the file that was exported"):
        import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    (tmp_path / "out/vtok.json").write_text(_without_files(facts))
    with pytest.raises(IntegrityError, match="split dev has 0 clips here, 4 were exported"):
        import_store(tmp_path / "out", tmp_path / "back", None, Origin())


def _without_files(facts: str) -> str:
    told = {key: value for key, value in json.loads(facts).items() if key != "sha256"}
    return json.dumps({**told, "files": {}})


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["train.parquet", "test.parquet", "validation/a.parquet"], {"train": 1, "test": 1, "validation": 1}),
        (["en/train/0.parquet", "fr/train/0.parquet", "fr/dev/0.parquet"], {"train": 2, "dev": 1}),
        (["tokens-train/0.parquet", "tokens_test_v2/0.parquet"], {"train": 1, "test": 1}),
        (["train/trainer.parquet", "test/contest.parquet"], {"train": 1, "test": 1}),
        (["a.parquet", "b.parquet"], {"train": 2}),
        (["Test/0.parquet", "TRAIN-0.parquet"], {"train": 1, "test": 1}),
    ],
)
def test_splits_by_path(tmp_path: Path, paths: list[str], wanted: dict[str, int]) -> None:
    _touch(tmp_path, paths)
    found = by_split(tmp_path, "*.parquet", Splits())
    assert {split: len(files) for split, files in found.items()} == wanted


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (["train/0.parquet", "hidden_set/0.parquet"], "names none of the splits"),
        (["train/0.parquet", "0.parquet"], "names none of the splits"),
        (["train/test-0.parquet"], "names two splits, test and train"),
        (["a/0.parquet", "b/0.parquet"], "folders that name no split: a, b"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, paths: list[str], what: str) -> None:
    _touch(tmp_path, paths)
    with pytest.raises(UsageError, match=what) as caught:
        by_split(tmp_path, "*.parquet", Splits())
    assert caught.value.hint and str(tmp_path) in caught.value.at
    assert by_split(tmp_path, "*.parquet", Splits(only="test")) == {"test": sorted(tmp_path / path for path in paths)}


def test_an_index_of_a_whole_tree_counts_once(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/index.json", "train/0/index.json", "train/1/index.json", "test/0/index.json"])
    found = indices_by_split(tmp_path, Splits())
    assert found == {"train": [tmp_path / "train/index.json"], "test": [tmp_path / "test/0/index.json"]}
    (tmp_path / "index.json").touch()  # of both splits together
    with pytest.raises(UsageError, match="names none of the splits"):
        indices_by_split(tmp_path, Splits())


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    _touch(tmp_path, [".cache/x.parquet", "train/.part.parquet", "train/0.parquet"])
    assert by_split(tmp_path, "*.parquet", Splits()) == {"train": [tmp_path / "train/0.parquet"]}


def test_test_rows_of_others_stay_test_rows(tmp_path: Path) -> None:
    """Hugging Face's own layout of a converted dataset."""
    for split, rows in {"train": 6, "test": 4}.items():
        (tmp_path / f"in/default/{split}").mkdir(parents=True)
        codes = np.random.default_rng(0).integers(0, 64, (rows, 12)).astype(np.uint16)
        pq.write_table(pa.table({"codes": list(codes)}), tmp_path / f"in/default/{split}/0000.parquet")
    import_store(tmp_path / "in", tmp_path / "tokens", "hf", KNOWN)
    assert TokenStore(tmp_path / "tokens").splits() == {"test": 4, "train": 6}


def test_hdf5_splits_of_any_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for split in ("train", "holdout_2"):
            file[f"{split}_data"], file[f"{split}_idx"] = np.zeros((4, 2, 3), np.int64), np.array([0, 2])
    import_store(tmp_path / "x.h5", tmp_path / "tokens", "hdf5", KNOWN)
    assert TokenStore(tmp_path / "tokens").splits() == {"holdout_2": 2, "train": 2}
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["holdout_2_idx"]
    with pytest.raises(UsageError, match="holdout_2_data has no holdout_2_idx"):
        import_store(tmp_path / "x.h5", tmp_path / "other", "hdf5", KNOWN)


def test_everything_of_one_split(tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.uint16).reshape(2, *GRID)
    for number in range(2):
        ds.write(tmp_path / "in", f"part{number}", [Row(codes[number], {})], Facts(64))
    with pytest.raises(UsageError, match="name no split"):
        import_store(tmp_path / "in", tmp_path / "tokens", "ds", KNOWN)
    import_store(tmp_path / "in", tmp_path / "tokens", "ds", KNOWN._replace(split="test"))
    assert TokenStore(tmp_path / "tokens").codes("test").tolist() == codes.reshape(2, -1).tolist()
    with pytest.raises(UsageError, match="is no name of a split"):
        import_store(tmp_path / "in", tmp_path / "other", "ds", KNOWN._replace(split="../x"))


def test_another_format_than_that_of_the_export_is_refused(store: TokenStore, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out", "ds")
    with pytest.raises(UsageError, match="exported to ds, not hf"):
        import_store(tmp_path / "out", tmp_path / "back", "hf", Origin())
    with pytest.raises(UsageError, match="with 64 codes made this export, not bbbbbbbbbbbb with 64"):
        import_store(tmp_path / "out", tmp_path / "back", None, Origin("b" * 64, 64))


def test_the_command_names_the_splits(store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_store(store, tmp_path / "out", "ds")
    arguments = ["tokens", "import", str(tmp_path / "out"), str(tmp_path / "back")]
    assert main([*arguments, "--split", "dev"]) == 2
    assert "names its splits itself" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "clips 9 (dev 4, train 3, train-b 2)" in capsys.readouterr().out


def _touch(folder: Path, paths: list[str]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
