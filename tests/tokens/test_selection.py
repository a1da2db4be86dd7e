"""Training on some of a store's views."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import IntegrityError, UsageError
from tests.tokens.making import codes_of_clip, token_row
from tests.tokens.stores import store_of
from tests.tokens.test_versions import VERSION_1
from vtok.tokens.loader import Crop, TokenLoader, clips_at
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


GRIDS = {"whole": (2, 4, 4), "mirrored": (2, 4, 4), "small": (2, 2, 2)}


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """Four clips in three views of two grids, with a pixel frame each."""
    rows = []
    for number, (view, clip) in enumerate(itertools.product(GRIDS, range(4))):
        row = token_row(number, "train", 64, GRIDS[view])
        frame = np.full((1, row["height"], row["width"], 3), number, np.uint8)
        rows.append({**row, "clip_id": f"clip-{clip}", "view_id": view, "cond_frames": frame.tobytes()})
    views = [{"name": name, "grid": list(grid)} for name, grid in GRIDS.items()]
    return store_of(tmp_path / "tokens", {"train-00000.parquet": rows}, facts={"views": views})


@pytest.mark.parametrize("views", [["whole"], ["mirrored", "whole"], ["small"]])
@pytest.mark.parametrize("crop", [False, True])
def test_views_of_one_grid_are_whole_rows_of_a_store_of_several(sizes: Path, views: list[str], crop: bool) -> None:
    shape = GRIDS[views[0]]
    cut = Crop(*shape) if crop else None
    options = {"seed": 0, "views": views, "crop": cut, "cond_frames": True}
    loader = TokenLoader(TokenStore(sizes), "train", 2, **options)  # type: ignore[arg-type]
    assert loader.clips == 4 * len(views) and loader.source.shape == shape
    for batch in loader:
        assert batch.codes_bthw.shape == (2, *shape) and set(batch.view_ids) <= set(views)
        assert batch.cond_frames_bthwc is not None
        for codes, label, box, frames in zip(
            batch.codes_bthw, batch.labels_b.tolist(), batch.boxes_b6.tolist(), batch.cond_frames_bthwc, strict=True
        ):
            assert np.array_equal(codes.reshape(-1), codes_of_clip(label, 64, shape))
            assert box == [0, shape[0], 0, shape[1], 0, shape[2]] and (frames == label).all()


def test_views_of_several_grids_still_need_a_crop(sizes: Path, tmp_path: Path) -> None:
    store = TokenStore(sizes)
    with pytest.raises(UsageError, match="rows of the views small, whole have different grids"):
        TokenLoader(store, "train", 2, seed=0, views=["whole", "small"])
    with pytest.raises(UsageError, match="rows of this store have different grids"):
        TokenLoader(store, "train", 2, seed=0)
    with pytest.raises(UsageError, match="frames are those of whole rows"):
        TokenLoader(store, "train", 2, seed=0, views=["whole"], crop=Crop(2, 2, 2), cond_frames=True)
    rows = [{**token_row(n, "train", 64, GRIDS[name]), "view_id": name} for n, name in enumerate(GRIDS)]
    silent = TokenStore(store_of(tmp_path / "silent" / "tokens", {"train-00000.parquet": rows}))
    with pytest.raises(UsageError, match="its card does not say which view has which"):
        TokenLoader(silent, "train", 1, seed=0, views=["whole"])
