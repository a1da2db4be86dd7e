"""The receipt of a mix: every row as often as its store's weight asks for, over ranks, borders and interruptions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import UsageError
from tests.tokens.making import make_store
from vtok.tokens.loader import TokenLoader
from vtok.tokens.mix_coverage import MixCoverage
from vtok.tokens.sequence import RowSequence
from vtok.tokens.store import TokenStore
from vtok.tokens.tally import digest_of


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TokenStore]:
    folder = tmp_path_factory.mktemp("stores")
    sizes = {"small": [5], "big": [20, 40]}
    return [TokenStore(make_store(folder / name, {"train": counts})) for name, counts in sizes.items()]


def loader_of(stores: list[TokenStore], rank: int = 0, world: int = 1) -> TokenLoader:
    folder = Path(stores[0].folder).parent / "cache"
    return TokenLoader(stores, "train", 4, seed=0, weights=[3.0, 1.0], rank=rank, world=world, cache=folder)


def finished(loader: TokenLoader) -> MixCoverage:
    assert isinstance(loader.finished, MixCoverage)
    return loader.finished


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_of_a_mix(stores: list[TokenStore], world: int) -> None:
    for epoch in (0, 17):
        pieces, rows = [], []
        for rank in range(world):
            loader = loader_of(stores, rank, world)
            loader.seek(epoch * loader.batches_per_epoch)
            rows += [batch.rows_b for batch in loader]
            pieces.append(finished(loader))
        receipt = loader.receipt(pieces)
        assert receipt.sound and (receipt.epoch, receipt.since) == (epoch, 0)
        assert receipt.draws == receipt.owed == 64 == sum(share.draws for share in receipt.shares)
        assert [share.rows for share in receipt.shares] == [5, 60]
        assert receipt.shares[0].draws == pytest.approx(48, abs=12) and receipt.shares[1].most <= 2
        assert receipt.digest == digest_of(np.concatenate(rows))
        assert str(receipt).startswith(f"epoch {epoch} of the mix: 64 clips drawn where 64 are owed (store 1: ")
        assert json.loads(json.dumps(receipt.row()))["stores"][1]["rows"] == 60


def test_what_is_lost_or_twice_is_named(stores: list[TokenStore]) -> None:
    first, second = (loader_of(stores, rank, 2) for rank in range(2))
    list(first)
    lost = second.source.rows_at(0, rank=1).tolist()
    second.seek(1)
    list(second)
    receipt = first.receipt([finished(first), finished(second)])
    assert not receipt.sound and receipt.missing == sorted(set(lost)) and receipt.repeated == []
    assert f"rows drawn too rarely: {sorted(set(lost))}" in str(receipt)
    receipt = first.receipt([finished(first), finished(second), finished(second)])
    assert not receipt.sound and receipt.repeated
    other = loader_of(stores)
    other.seek(other.batches_per_epoch)
    list(other)
    with pytest.raises(UsageError, match="not all of one epoch"):
        first.receipt([finished(first), finished(other)])


def test_an_epoch_that_was_gone_on_with(stores: list[TokenStore]) -> None:
    whole, rest = loader_of(stores), loader_of(stores)
    rest.seek(5)
    list(whole)
    list(rest)
    receipt: Any = rest.receipt([finished(rest)])
    assert receipt.sound and receipt.since == 5 and receipt.draws == 44
    assert "of the mix since its step 5: 44 clips" in str(receipt)


def test_what_is_owed_is_what_is_drawn() -> None:
    """Worked out from the shares on one side, counted batch by batch on the other."""
    sequence = RowSequence([[3, 4], [50], [9]], 8, seed=0, weights=[5, 1, 2])
    for first, stop in ((0, 1), (0, 128), (3, 700), (127, 129), (100_000, 100_200), (7, 7)):
        drawn = [sequence.places(step, 0, 8).rows for step in range(first, stop)]
        times = np.bincount(np.fromiter(itertools.chain(*drawn), np.int64), minlength=66)
        assert np.array_equal(np.concatenate(sequence.owed(first, stop)), times)
