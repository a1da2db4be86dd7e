"""The order of the clips is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from schemas.errors import UsageError
from tests.tokens.making import GRID, codes_of_clip, make_store
from vtok.tokens import loader as module
from vtok.tokens.loader import TokenBatch, TokenLoader
from vtok.tokens.store import TokenStore

BATCH = 4
CLIPS = 30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", {"train": [13, 17], "test": [2]}))


@pytest.fixture(params=[1, 3, 64])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Row groups that are shuffled together: one, a few, more than there are."""
    monkeypatch.setattr(module, "WINDOW_GROUPS", request.param)
    return int(request.param)


def take(
    store: TokenStore, count: int, *, start: int = 0, seed: int = 0, rank: int = 0, world: int = 1
) -> list[TokenBatch]:
    loader = TokenLoader(store, "train", BATCH, seed=seed, rank=rank, world=world)
    return list(itertools.islice(loader.batches(start), count))


def labels(batches: list[TokenBatch]) -> list[list[int]]:
    return [batch.labels_b.tolist() for batch in batches]


def test_a_batch_holds_the_codes_of_its_clips(store: TokenStore) -> None:
    for batch in take(store, 10):
        assert batch.codes_bthw.shape == (BATCH, *GRID)
        assert batch.codes_bthw.dtype == np.int64
        for codes, label in zip(batch.codes_bthw, batch.labels_b, strict=True):
            assert np.array_equal(codes.reshape(-1), codes_of_clip(int(label), 64))


def test_the_same_seed_gives_the_same_order_and_another_one_another(store: TokenStore, window: int) -> None:
    assert labels(take(store, 20)) == labels(take(store, 20))
    assert labels(take(store, 20)) != labels(take(store, 20, seed=1))


def test_epochs_differ_and_no_clip_comes_twice_in_one(store: TokenStore, window: int) -> None:
    per_epoch = CLIPS // BATCH
    batches = labels(take(store, 3 * per_epoch))
    epochs = [list(itertools.chain(*batches[i * per_epoch : (i + 1) * per_epoch])) for i in range(3)]
    for epoch in epochs:
        assert len(epoch) == per_epoch * BATCH == len(set(epoch))
        assert set(epoch) <= set(range(CLIPS))
    assert epochs[0] != epochs[1] != epochs[2]
    assert set().union(*epochs) == set(range(CLIPS)), "the clips that an epoch drops must differ"


def test_resuming_at_any_step_gives_the_same_batches(store: TokenStore, window: int) -> None:
    whole = take(store, 16)
    for start in range(16):
        for wanted, found in zip(whole[start:], take(store, 16 - start, start=start), strict=True):
            assert np.array_equal(wanted.labels_b, found.labels_b)
            assert np.array_equal(wanted.codes_bthw, found.codes_bthw)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_global_batch(store: TokenStore, window: int, world: int) -> None:
    whole = labels(take(store, 9, start=3))
    ranks = [labels(take(store, 9, start=3, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert list(itertools.chain(*(rank[step] for rank in ranks))) == batch
        assert {len(rank[step]) for rank in ranks} == {BATCH // world}


def test_windows_before_the_position_are_not_read(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_GROUPS", 1)
    reads: list[object] = []
    real = TokenStore.read
    monkeypatch.setattr(
        TokenStore, "read", lambda self, group, columns: reads.append(group) or real(self, group, columns)
    )
    take(store, 1, start=6)  # clips 24 .. 27 of 30, in row groups of at most 4
    assert 1 <= len(reads) <= 3


def test_clips_without_a_label(store: TokenStore) -> None:
    loader = TokenLoader(store, "test", 2, seed=0)
    assert next(loader.batches(0)).labels_b.tolist() == [-1, -1]


def test_too_few_clips(store: TokenStore) -> None:
    with pytest.raises(UsageError, match="has 2 clips: fewer than one batch of 4") as caught:
        TokenLoader(store, "test", 4, seed=0)
    assert "batch_size" in caught.value.hint
    with pytest.raises(UsageError, match="split 'val' has 0 clips"):
        TokenLoader(store, "val", 4, seed=0)


def test_a_batch_must_divide_by_the_ranks(store: TokenStore) -> None:
    with pytest.raises(UsageError, match="does not divide by 3 ranks"):
        TokenLoader(store, "train", 4, seed=0, rank=0, world=3)
