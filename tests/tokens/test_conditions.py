"""Crops with their boxes, latent strides, pixel frames, audio, mixes: a batch says exactly what its codes are."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import UsageError
from tests.tokens.making import GRID, codes_of_clip, make_store, token_row
from tests.tokens.test_versions import VERSION_1, sealed
from vtok.tokens.loader import Crop, TokenBatch, TokenLoader
from vtok.tokens.store import TokenStore

LARGE = (6, 5, 7)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", {"train": [40]}, grid=LARGE))


def epoch_of(store: TokenStore | list[TokenStore], batch_size: int = 4, **options: Any) -> list[TokenBatch]:
    return list(TokenLoader(store, "train", batch_size, **{"seed": 0, **options}))


@pytest.mark.parametrize(
    ("crop", "shape"),
    [
        (Crop(t=2), (2, 5, 7)),
        (Crop(h=2, w=3), (6, 2, 3)),
        (Crop(t=4, h=5, w=1), (4, 5, 1)),
        (Crop(stride=4), (2, 5, 7)),
        (Crop(t=2, stride=3, w=6), (2, 5, 6)),
        (Crop(t=6, h=5, w=7), LARGE),
    ],
)
def test_the_codes_are_those_of_the_box(large: TokenStore, crop: Crop, shape: tuple[int, int, int]) -> None:
    boxes = set()
    for batch in epoch_of(large, crop=crop):
        assert batch.codes_bthw.shape == (4, *shape)
        for codes, label, box in zip(batch.codes_bthw, batch.labels_b.tolist(), batch.boxes_b6.tolist(), strict=True):
            t0, t1, h0, h1, w0, w1 = box
            whole = codes_of_clip(label, 64, LARGE).reshape(LARGE)
            assert np.array_equal(codes, whole[t0 : t1 : crop.stride, h0:h1, w0:w1])
            assert 0 <= t0 < t1 <= 6 and 0 <= h0 < h1 <= 5 and 0 <= w0 < w1 <= 7
            boxes.add(tuple(box))
    moving = {
        "t": 6 - ((crop.t - 1) * crop.stride + 1) if crop.t else 0,
        "h": 5 - (crop.h or 5),
        "w": 7 - (crop.w or 7),
    }
    assert len(boxes) > 1 if any(moving.values()) else boxes == {(0, 6, 0, 5, 0, 7)}
    if crop == Crop(t=4, h=5, w=1):
        assert Counter(box[0] for box in boxes).keys() == {0, 1, 2}, "every start occurs"
        assert {box[4] for box in boxes} == set(range(7))


def test_boxes_are_the_same_on_all_ranks_and_others_in_the_next_epoch(large: TokenStore) -> None:
    options: dict[str, Any] = {"crop": Crop(t=2, h=3, w=3)}
    whole = epoch_of(large, **options)
    ranks = [epoch_of(large, rank=rank, world=2, workers=rank, **options) for rank in range(2)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert np.array_equal(batch.boxes_b6, np.concatenate([first.boxes_b6, second.boxes_b6]))
        assert np.array_equal(batch.codes_bthw, np.concatenate([first.codes_bthw, second.codes_bthw]))
    loader = TokenLoader(large, "train", 4, seed=0, **options)
    boxes = [
        {n: tuple(b) for batch in loader for n, b in zip(batch.clip_ids, batch.boxes_b6, strict=True)} for _ in "ab"
    ]
    assert sum(boxes[0][name] != boxes[1][name] for name in boxes[0]) > 20
    assert loader.state_dict()["crop"] == [2, 3, 3, 1]


def test_crops_that_do_not_fit(large: TokenStore) -> None:
    with pytest.raises(UsageError, match=r"a crop of \(7, 5, 7\) does not fit into codes of \(6, 5, 7\)"):
        epoch_of(large, crop=Crop(t=7))
    with pytest.raises(UsageError, match="positive"):
        Crop(stride=0)
    with pytest.raises(UsageError, match="conditioning frames are those of whole rows"):
        epoch_of(large, crop=Crop(t=2), cond_frames=True)


def test_ragged_rows_are_loaded_by_crops_of_one_size(tmp_path: Path) -> None:
    grids = [(2, 4, 3), (4, 2, 3), (3, 2, 5)]
    rows = [token_row(n, "train", 64, grid) for n, grid in enumerate(grids)]
    store = TokenStore(sealed(tmp_path / "tokens", rows, None))
    (batch,) = epoch_of(store, 3, crop=Crop(2, 2, 3))
    for codes, label, (t0, t1, h0, h1, w0, w1) in zip(
        batch.codes_bthw, batch.labels_b.tolist(), batch.boxes_b6.tolist(), strict=True
    ):
        whole = codes_of_clip(label, 64, grids[label]).reshape(grids[label])
        assert np.array_equal(codes, whole[t0:t1, h0:h1, w0:w1])
    with pytest.raises(UsageError, match="different grids"):
        epoch_of(store, 3)
    with pytest.raises(UsageError, match="clip 'clip-0000', view 'whole': a crop of"):
        epoch_of(store, 3, crop=Crop(3, 2, 3))


def test_views_captions_frames_and_audio(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 24, 3), dtype=np.uint8)
    rows = [
        {
            **token_row(0, "train", 64),
            "view_id": f"view-{n}",
            "label": n,
            "caption": None if n == 1 else f"ein Käfer {n}",
            "cond_frames": frames[n].tobytes(),
            "audio_codes": np.arange(n, n + 4),
        }
        for n in range(3)
    ]
    store = TokenStore(sealed(tmp_path / "tokens", rows, GRID, audio_codebook_size=10))
    for workers in (0, 1):
        (batch,) = epoch_of(store, 3, cond_frames=True, audio=True, workers=workers)
        labels = batch.labels_b.tolist()
        assert batch.view_ids == [f"view-{n}" for n in labels] and batch.clip_ids == ["clip-0000"] * 3
        assert batch.captions == [None if n == 1 else f"ein Käfer {n}" for n in labels]
        assert batch.cond_frames_bthwc is not None and np.array_equal(batch.cond_frames_bthwc, frames[labels])
        assert batch.audio_codes_bn is not None and batch.audio_codes_bn.dtype == np.int64
        assert batch.audio_codes_bn.tolist() == [list(range(n, n + 4)) for n in labels]
    (plain,) = epoch_of(store, 3)
    assert plain.cond_frames_bthwc is None and plain.audio_codes_bn is None
    without = TokenStore(sealed(tmp_path / "without", [token_row(n, "train", 64) for n in range(3)], GRID))
    with pytest.raises(UsageError, match="its cond_frames_thwc are none"):
        epoch_of(without, 3, cond_frames=True)


@pytest.mark.parametrize("crop", [None, Crop(1, 2, 2)])
def test_codes_cut_out_of_a_longer_encoding_are_marked(tmp_path: Path, crop: Crop | None) -> None:
    origins = [None, "a-long-clip", None, "noch ein längerer"]
    rows = [{**token_row(n, "train", 64), "windowed_from": origin} for n, origin in enumerate(origins)]
    store = TokenStore(sealed(tmp_path / "tokens", rows, GRID))
    (batch,) = epoch_of(store, 4, crop=crop)
    assert list(batch.windowed_from) == [origins[label] for label in batch.labels_b.tolist()]
    assert list(batch.captions) == [None] * 4
    assert sorted(batch.clip_ids) == [f"clip-{n:04d}" for n in range(4)]


def test_a_mix_draws_by_weight_and_every_store_in_its_own_epochs(tmp_path: Path) -> None:
    small = TokenStore(make_store(tmp_path / "small", {"train": [5]}))
    big = TokenStore(make_store(tmp_path / "big", {"train": [20, 40]}))
    options: dict[str, Any] = {"weights": [3.0, 1.0]}
    loader = TokenLoader([small, big], "train", 4, seed=0, **options)
    assert (loader.clips, loader.batches_per_epoch) == (65, 16)
    rows = [batch.rows_b.tolist() for batch in itertools.islice(loader.forever(), 256)]
    drawn = list(itertools.chain(*rows))
    assert sum(row < 5 for row in drawn) == 768
    assert set(Counter(row for row in drawn if row < 5).values()) <= {153, 154}
    assert set(Counter(row for row in drawn if row >= 5).values()) <= {4, 5}
    resumed = TokenLoader([small, big], "train", 4, seed=0, rank=1, world=2, **options)
    loader.seek(100)
    resumed.load_state_dict(loader.state_dict())
    assert [batch.rows_b.tolist() for batch in itertools.islice(resumed.forever(), 20)] == [
        b[2:] for b in rows[100:120]
    ]
    with pytest.raises(UsageError, match=r"weights is \[512, 512\] here and \[768, 256\] in the state"):
        TokenLoader([small, big], "train", 4, seed=0, weights=[1, 1]).load_state_dict(loader.state_dict())
    together = epoch_of([small, big], 5)
    assert sorted(itertools.chain(*(batch.rows_b.tolist() for batch in together))) == list(range(65))
    with pytest.raises(UsageError, match="2 stores and 1 weights"):
        TokenLoader([small, big], "train", 4, seed=0, weights=[1])


def test_stores_that_do_not_go_together_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    one = TokenStore(make_store(tmp_path / "one", {"train": [5]}))
    cases = {
        "tokenizer": ({"tokenizer": "b" * 64}, f"the tokenizer is {'a' * 64} in .* and {'b' * 64} in"),
        "codebook": ({"codebook_size": 128}, "the codebook_size is 64 in .* and 128 in"),
        "grid": ({"grid": (2, 3, 3)}, r"the latent grid is \(2, 2, 3\) in .* and \(2, 3, 3\) in .*aaaa.*aaaa"),
    }
    for name, (options, message) in cases.items():
        other = TokenStore(make_store(tmp_path / name, {"train": [5]}, **options))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=message) as caught:
            epoch_of([one, other], weights=[1, 1])
        assert str(other.folder) in caught.value.at
    assert epoch_of([one, other], crop=Crop(1, 2, 2)), "crops of one size go together"


def test_a_store_of_version_1_is_loaded() -> None:
    (batch,) = epoch_of(TokenStore(VERSION_1), 7)
    assert sorted(batch.labels_b.tolist()) == list(range(7)) and batch.view_ids == ["whole"] * 7
    for codes, label in zip(batch.codes_bthw, batch.labels_b.tolist(), strict=True):
        assert np.array_equal(codes.reshape(-1), codes_of_clip(label, 64))
