"""Training on some of a store's views."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from schemas.errors import IntegrityError, UsageError
from tests.tokens.making import token_row
from tests.tokens.stores import store_of
from tests.tokens.test_versions import VERSION_1
from vtok.tokens.loader import TokenLoader, clips_at
from vtok.tokens.store import TokenStore

VIEWS = ["a", "b", "a", "b", "b"] + ["a"] * 4 + ["b"] * 3
"""Of twelve rows in parts of five, four and three: mixed, one view, the other."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{**token_row(number, "train", 64), "view_id": view} for number, view in enumerate(VIEWS)]
    parts = {"train-00000.parquet": rows[:5], "train-00001.parquet": rows[5:9], "train-00002.parquet": rows[9:]}
    return store_of(tmp_path / "tokens", parts)


def test_only_rows_of_these_views_come(folder: Path, tmp_path: Path) -> None:
    for views in (["a"], ["b"], ["b", "a"]):
        wanted = [number for number, view in enumerate(VIEWS) if view in views]
        options = {"seed": 0, "views": views, "last": "pad", "cache": tmp_path / "cache"}
        loader = TokenLoader(TokenStore(folder), "train", 2, **options)  # type: ignore[arg-type]
        assert loader.clips == len(wanted)
        batches = list(itertools.islice(loader.forever(), 2 * loader.batches_per_epoch))
        for epoch in (batches[: loader.batches_per_epoch], batches[loader.batches_per_epoch :]):
            assert sorted(itertools.chain(*(batch.labels_b[batch.valid_b].tolist() for batch in epoch))) == wanted
        for step, batch in enumerate(batches):
            assert [VIEWS[label] for label in batch.labels_b.tolist()] == batch.view_ids
            assert [clip["clip_id"] for clip in clips_at(loader.source, step)] == batch.clip_ids
            assert batch.rows_b is not None
            assert batch.rows_b.tolist() == [wanted.index(label) for label in batch.labels_b.tolist()]


def test_the_state_says_which_views(folder: Path) -> None:
    some, every = (TokenLoader(TokenStore(folder), "train", 2, seed=0, views=views) for views in (["b"], None))
    assert some.state_dict()["views"] == ["b"]
    with pytest.raises(UsageError, match=r'views is null here and \["b"\] in the state'):
        every.load_state_dict(some.state_dict())
    with pytest.raises(UsageError, match=r'views is \["b"\] here and null in the state'):
        some.load_state_dict(every.state_dict())
    TokenLoader(TokenStore(folder), "train", 2, seed=0, views=["b", "b"]).load_state_dict(some.state_dict())


def test_views_that_are_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="split 'train' in the views c, d has 0 clips"):
        TokenLoader(TokenStore(folder), "train", 2, seed=0, views=["d", "c"])
    assert TokenLoader(TokenStore(VERSION_1), "train", 7, seed=0, views=["whole"]).clips == 7
    with pytest.raises(UsageError, match="0 clips"):
        TokenLoader(TokenStore(VERSION_1), "train", 7, seed=0, views=["flip"])


def test_views_are_read_from_what_was_written(folder: Path) -> None:
    part = folder / "train-00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="sha256 differs"):
        TokenLoader(TokenStore(folder), "train", 2, seed=0, views=["a"])
