"""The mark that a prior's loss is compared with: exact on small stores, a bounded sample of large ones."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import UsageError
from tests.tokens.making import GRID, make_store, token_row
from tests.tokens.test_versions import sealed
from vtok.tokens import unigram
from vtok.tokens.stats import health, position_entropy
from vtok.tokens.store import RowGroup, TokenStore

SIZE = math.prod(GRID)


class Counting(TokenStore):
    """Counts what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.groups: Counter[str] = Counter()
        self.footers = 0

    def read(self, group: RowGroup, columns: list[str] | None = None) -> Any:
        self.groups[group.path.name] += 1
        return super().read(group, columns)

    def _footer(self, path: Path, sha256: str | None) -> Any:
        self.footers += 1
        return super()._footer(path, sha256)


def test_a_small_split_is_counted_whole(tmp_path: Path) -> None:
    store = TokenStore(make_store(tmp_path / "tokens", {"train": [13, 0, 1], "test": [9]}, row_group_rows=4))
    found = unigram.positional(store)
    assert found.nats == pytest.approx(position_entropy(store.codes("train"), 64).mean(), abs=1e-12)
    assert found[1:] == (14, 14) and str(found).endswith("nats over all 14 train clips")
    counts = np.bincount(store.codes("train").reshape(-1), minlength=64)
    assert unigram.overall(store) == (pytest.approx(health(counts).entropy_bits * math.log(2), abs=1e-12), 14, 14)


def test_of_a_large_split_a_bounded_sample_is_read_and_the_same_one_every_time(tmp_path: Path) -> None:
    """Three times the parts: no more row groups, footers and codes."""
    for parts in (20, 60):
        store = Counting(make_store(tmp_path / str(parts), {"train": [12] * parts}, row_group_rows=4))
        found = unigram.positional(store, most_codes=60 * SIZE, most_bytes=1)
        assert found.of == 12 * parts and 50 <= found.clips <= 60
        assert store.groups.total() <= 16 and len(store.groups) == store.footers == 16, "a row group of 16 parts"
        names = sorted(store.groups)
        numbers = [int(name[6:11]) for name in names]
        assert numbers == [number * parts // 16 for number in range(16)], "evenly spread"
        assert str(found).endswith(f"{found.clips} of {12 * parts:,} train clips")
        again = Counting(store.folder)
        assert unigram.positional(again, most_codes=60 * SIZE, most_bytes=1) == found and again.groups == store.groups
        whole = unigram.positional(TokenStore(store.folder))
        assert found.nats == pytest.approx(whole.nats, abs=0.75) and found.nats < whole.nats, "50 rows for 64 codes"
        before = store.footers
        assert unigram.overall(store, most_footers=5)[1:] == (60, 12 * parts)
        assert store.footers - before == 5


def test_large_parts_give_some_rows_of_some_row_groups(tmp_path: Path) -> None:
    store = Counting(make_store(tmp_path / "tokens", {"train": [80, 80]}, row_group_rows=8))
    found = unigram.positional(store, most_codes=40 * SIZE)
    assert found[1:] == (40, 160) and store.groups == {"train-00000.parquet": 3, "train-00001.parquet": 3}
    assert unigram.positional(store, most_codes=1).clips == 1


def test_rows_with_grids_of_their_own_have_no_positions(tmp_path: Path) -> None:
    rows = [token_row(n, "train", 64, grid) for n, grid in enumerate([(2, 4, 3), (4, 2, 3)])]
    store = TokenStore(sealed(tmp_path / "tokens", rows, None))
    with pytest.raises(UsageError, match="different grids"):
        unigram.positional(store)
    assert unigram.overall(store).clips == 2
