"""The order against one that is built in full, epoch by epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vtok.seeds import derive
from vtok.shards.order import WINDOW_SHARDS, EpochOrder


def in_full(rows: list[int], seed: int, epoch: int, shuffle: bool) -> list[tuple[int, int]]:
    """Every (shard, clip) of an epoch, by moving lists about."""
    shards = list(range(len(rows)))
    if not shuffle:
        return [(shard, clip) for shard in shards for clip in range(rows[shard])]
    order = np.random.default_rng(derive(seed, "shards", epoch)).permutation(len(rows)).tolist()
    out = []
    for window in range(-(-len(order) // WINDOW_SHARDS)):
        part = order[window * WINDOW_SHARDS : (window + 1) * WINDOW_SHARDS]
        clips = [(shard, clip) for shard in part for clip in range(rows[shard])]
        mixed = np.random.default_rng(derive(seed, "shards", epoch, window)).permutation(len(clips))
        out += [clips[i] for i in mixed]
    return out


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=14), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.data()
)
def test_any_position_is_found_without_the_others(
    rows: list[int], seed: int, epoch: int, shuffle: bool, data: st.DataObject
) -> None:
    full = in_full(rows, seed, epoch, shuffle)
    order = EpochOrder(rows, seed=seed, epoch=epoch, shuffle=shuffle)
    assert len(order) == len(full) == len(set(full)) == sum(rows)
    for position in data.draw(st.permutations(range(len(full)))):  # going back and forth changes nothing
        assert order.place(position) == full[position]


def test_no_shards() -> None:
    assert len(EpochOrder([], seed=0, epoch=0, shuffle=True)) == 0


def test_a_position_far_into_a_large_dataset_costs_nothing() -> None:
    order = EpochOrder([256] * 40_000, seed=0, epoch=7, shuffle=True)
    places = {order.place(position) for position in range(9_000_000, 9_000_000 + 4 * 256)}
    assert len(places) == 4 * 256
    assert len({place.shard for place in places}) <= 2 * WINDOW_SHARDS
    assert len(order._windows) <= 2
