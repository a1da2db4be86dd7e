"""Batches in page-locked memory: what is pinned, and that nothing else changes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from schemas.config.prior import GptConfig
from tests.tokens.making import make_store
from vtok import stepping
from vtok.priors.collate import Collate
from vtok.tokens.batches import TokenBatch
from vtok.tokens.gather import Texts
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import TokenStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", {"train": [10]}))


def epoch(store: TokenStore, **options: Any) -> list[TokenBatch]:
    loader = TokenLoader(store, "train", 4, seed=0, last="pad", **options)
    out = list(itertools.islice(loader.forever(), 3))
    loader.close()
    return out


def same(found: TokenBatch, wanted: TokenBatch) -> bool:
    return all(
        np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Copies in place of page-locked memory, which needs a GPU; what was made is noted."""
    made: list[np.ndarray] = []

    def copied(array: np.ndarray) -> np.ndarray:
        made.append(array.copy())
        return made[-1]

    monkeypatch.setattr(stepping, "_page_locked", copied)
    return made


def test_every_array_of_a_batch_is_pinned_and_the_prior_is_given_these(
    store: TokenStore, replaced: list[np.ndarray]
) -> None:
    plain, pinned = epoch(store), epoch(store, pin=True)
    assert all(map(same, pinned, plain))
    arrays = [field for batch in pinned for field in batch if isinstance(field, np.ndarray)]
    assert [id(array) for array in arrays] == [id(array) for array in replaced] and len(arrays) == 3 * 5
    collate = Collate(GptConfig(n_layer=1, n_head=1, n_embd=8, condition="label"), "cpu")
    for tokens in pinned[:2]:
        batch = collate.of_tokens(tokens, "")
        assert batch.codes_bthw.data_ptr() == tokens.codes_bthw.ctypes.data, "no copy that is not page-locked"
        assert batch.labels_b is not None and batch.labels_b.data_ptr() == tokens.labels_b.ctypes.data
    last = collate.of_tokens(pinned[2], "").codes_bthw
    assert (last[2:] == -1).all() and (last[:2] >= 0).all() and (pinned[2].codes_bthw >= 0).all()


def test_torch_pins_what_workers_send(store: TokenStore, replaced: list[np.ndarray]) -> None:
    """DataLoader's thread calls this function; it runs with a GPU only, and would make lists of texts of a tuple's."""
    (plain, *_) = epoch(store)
    assert isinstance(plain.clip_ids, Texts)
    found = pin_memory(stepping._Parcel(plain)).opened()
    assert isinstance(found, TokenBatch) and same(found, plain) and found.clip_ids is plain.clip_ids
    assert [field.ctypes.data for field in found if isinstance(field, np.ndarray)] == [a.ctypes.data for a in replaced]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_lie_in_page_locked_memory(store: TokenStore, workers: int) -> None:
    collate = Collate(GptConfig(n_layer=1, n_head=1, n_embd=8, condition="label"), "cuda")
    for plain, tokens in zip(epoch(store), epoch(store, pin=True, workers=workers), strict=True):
        assert same(tokens, plain)
        assert all(torch.from_numpy(field).is_pinned() for field in tokens if isinstance(field, np.ndarray))
        batch = collate.of_tokens(tokens, "")
        wanted = np.where(plain.valid_b[:, None, None, None], plain.codes_bthw, -1)
        assert torch.equal(batch.codes_bthw.cpu(), torch.from_numpy(wanted))
