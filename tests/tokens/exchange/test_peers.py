"""The libraries that the formats are for read our exports, and find in them what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from tests.tokens.making import GRID, make_store
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.store import TokenStore

CLIPS = 12
SIZE = int(np.prod(GRID))


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: it reads our export to its format")


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(make_store(tmp_path / "tokens", {"train": [7, 5], "test": [2]}))


def test_webdataset(store: TokenStore, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out", "webdataset")
    urls = [str(path) for path in sorted((tmp_path / "out/train").iterdir())]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert np.array_equal(np.stack([sample["npy"].reshape(-1) for sample in found]), store.codes("train"))
    assert [sample["json"]["clip_id"] for sample in found] == _clips(store)
    assert found[0]["npy"].shape == GRID and found[0]["npy"].dtype == np.uint16


def test_litdata(store: TokenStore, tmp_path: Path) -> None:
    litdata = library("litdata")
    from litdata.streaming.item_loader import TokensLoader

    export_store(store, tmp_path / "out", "litdata")
    folder = str(tmp_path / "out/train")
    found = litdata.StreamingDataset(folder, item_loader=TokensLoader(block_size=SIZE), shuffle=False)
    codes = np.stack([np.asarray(found[number]) for number in range(len(found))])
    assert np.array_equal(codes, store.codes("train"))


def test_mosaicml_streaming(store: TokenStore, tmp_path: Path) -> None:
    streaming = library("streaming")
    export_store(store, tmp_path / "out", "mds")
    found = streaming.StreamingDataset(local=str(tmp_path / "out/train"), shuffle=False, batch_size=1)
    samples = [found[number] for number in range(len(found))]
    assert np.array_equal(np.stack([sample["codes"].reshape(-1) for sample in samples]), store.codes("train"))
    assert samples[0]["codes"].shape == GRID and samples[0]["codes"].dtype == np.uint16
    assert [sample["clip_id"] for sample in samples] == _clips(store)
    assert [sample["label"] for sample in samples] == [row["label"] for row in store.rows("train")]
    assert samples[3]["row"]["source"] == "c0/3.avi"


def test_hugging_face_datasets(store: TokenStore, tmp_path: Path) -> None:
    datasets = library("datasets")
    export_store(store, tmp_path / "out", "hf")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": CLIPS, "test": 2}
    assert np.array_equal(np.array(found["train"]["codes"]), store.codes("train"))
    assert list(found["train"]["clip_id"]) == _clips(store)


def test_datatrove(store: TokenStore, tmp_path: Path) -> None:
    library("datatrove")
    from datatrove.utils.dataset import DatatroveFolderDataset

    export_store(store, tmp_path / "out", "ds")
    found = DatatroveFolderDataset(str(tmp_path / "out/train"), seq_len=SIZE - 1, shuffle=False, token_size=2)
    codes = np.stack([np.asarray(found[number]["input_ids"]) for number in range(len(found))])
    assert np.array_equal(codes, store.codes("train"))


def _clips(store: TokenStore) -> list[str]:
    return [row["clip_id"] for row in store.rows("train")]
