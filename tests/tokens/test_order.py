"""The order is a bijection that can be entered anywhere, and it shuffles well."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from schemas.errors import UsageError
from vtok.tokens import order as module
from vtok.tokens.mixing import BLOCK, Mix
from vtok.tokens.order import PartsOrder, RowOrder
from vtok.tokens.sequence import RowSequence

GOLDEN_SMALL = [2, 9, 4, 3, 7, 6, 0, 1, 8, 5]
GOLDEN_LARGE = [637518, 5994342, 5215104, 206383, 7419995, 7057788]
LARGE = 100_003  # above SORTED_ROWS: the Feistel network


def whole(rows: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return RowOrder(rows, seed=seed, epoch=epoch)(0, rows)


@pytest.mark.parametrize("sort_up_to", [1 << 16, 0])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 1000, 4097, LARGE])
def test_every_row_comes_once_and_any_position_can_be_entered(
    rows: int, sort_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SORTED_ROWS", sort_up_to)
    every = whole(rows)
    assert np.array_equal(np.sort(every), np.arange(rows))
    random = np.random.default_rng(0)
    order = RowOrder(rows, seed=0, epoch=0)
    for start in random.integers(0, rows, 10):
        stop = int(min(start + random.integers(1, 5000), rows))
        assert np.array_equal(order(int(start), stop), every[start:stop])


def test_the_order_is_this_one() -> None:
    """It must not change from version to version: a run is resumed in it."""
    assert whole(10).tolist() == GOLDEN_SMALL
    assert RowOrder(10**7, seed=3, epoch=2)(5_000_000, 5_000_006).tolist() == GOLDEN_LARGE


@pytest.mark.parametrize("rows", [50_000, LARGE])
def test_neighbours_have_nothing_in_common(rows: int) -> None:
    """Measured: correlations of rows that follow one another are those of a random permutation, 1/sqrt(n) or so."""
    first, second, other = whole(rows), whole(rows, epoch=1), whole(rows, seed=1)
    bound = 4.5 / np.sqrt(rows)
    for lag in (1, 2, 16, 4096):
        assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < bound
    assert abs(np.corrcoef(first, np.arange(rows))[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first, other)[0, 1]) < bound
    distance = np.abs(np.diff(first))
    assert distance.mean() / rows == pytest.approx(1 / 3, abs=0.01)
    assert (distance == 1).mean() == pytest.approx(2 / rows, abs=6 * np.sqrt(2) / rows)
    assert (first == np.arange(rows)).sum() < 10, "a random permutation has one fixed point on average"
    tenths = [np.histogram(part, 10, (0, rows))[0] for part in np.array_split(first, 10)]
    deviation = (np.array(tenths) - rows / 100) / np.sqrt(rows / 100)
    assert np.abs(deviation).max() < 4.5, "every stretch of an epoch is drawn from the whole split"
    low_bits = np.bincount(first[:4096] % 8, minlength=8)
    assert np.abs(low_bits - 512).max() < 5 * np.sqrt(512)


def test_the_order_by_parts_mixes_four_parts_at_a_time() -> None:
    """Measured on 1,000 parts of 50 rows, which are 250 windows of four: the rows of a window are in random order, and
    windows are random. So neighbours are of one part one time in four, and the numbers of their rows correlate by 1/4
    (at most 0.35, within 4.5 deviations over 250 windows); from window to window, and between epochs, by less than
    0.25 x 4.5 / sqrt(250). `order="rows"` has none of this: the test above."""
    size, parts, window = 50, 1000, 200
    rows, windows = size * parts, size * parts // window
    first, second, other = (
        PartsOrder([size] * parts, seed=seed, epoch=epoch)(0, rows) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    )
    assert np.array_equal(np.sort(first), np.arange(rows))
    by_window = first.reshape(windows, window)
    assert {len(np.unique(own // size)) for own in by_window} == {4}
    share = (np.diff(by_window // size, axis=1) == 0).mean()
    assert share == pytest.approx((size - 1) / (window - 1), abs=4.5 * np.sqrt(0.25 * 0.75 / rows))
    apart = 0.25 * 4.5 / np.sqrt(windows)
    for lag in (1, 2, 16):
        assert np.corrcoef(first[:-lag], first[lag:])[0, 1] < 0.35
    for lag in (window, 2 * window, 16 * window):
        assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < apart
    for against in (second, other, np.arange(rows)):
        assert abs(np.corrcoef(first, against)[0, 1]) < apart
    inside = by_window - by_window.mean(axis=1, keepdims=True)
    correlation = np.corrcoef(inside[:, :-1].reshape(-1), inside[:, 1:].reshape(-1))[0, 1]
    assert abs(correlation + 1 / (window - 1)) < 4.5 / np.sqrt(rows), "inside a window: those of a random permutation"


def test_small_splits_come_in_any_order() -> None:
    counts = Counter(tuple(whole(3, seed=seed, epoch=seed % 7).tolist()) for seed in range(1200))
    assert len(counts) == 6
    assert max(abs(count - 200) for count in counts.values()) < 5 * np.sqrt(200)


def test_a_mix_keeps_its_shares_at_any_position() -> None:
    mix = Mix([3, 1, 0.5], seed=0)
    stores, turns = mix.draws(0, 4 * BLOCK)
    for number, share in enumerate((3, 1, 0.5)):
        assert (stores == number).sum() == pytest.approx(4 * BLOCK * share / 4.5, abs=4)
        assert np.array_equal(turns[stores == number], np.arange((stores == number).sum())), "in turn, none left out"
    for start in (0, 5, BLOCK - 1, 10**12):
        part = Mix([3, 1, 0.5], seed=0).draws(start, start + 40)
        again = Mix([3, 1, 0.5], seed=0).draws(start + 10, start + 20)
        assert np.array_equal(part.stores[10:20], again.stores) and np.array_equal(part.turns[10:20], again.turns)
    assert not np.array_equal(stores, Mix([3, 1, 0.5], seed=1).draws(0, 4 * BLOCK).stores)
    for weights, message in (([1, 0], "positive"), ([1, float("nan")], "positive"), ([1e6, 1], "differ too much")):
        with pytest.raises(UsageError, match=message):
            Mix(weights, seed=0)


def test_each_store_of_a_mix_goes_through_epochs_of_its_own() -> None:
    sequence = RowSequence([[3, 4], [50]], 8, seed=0, weights=[1, 1])
    assert (sequence.per_epoch, sequence.dropped, sequence.padded) == (7, 0, 0)
    places = [sequence.places(step, first, 4) for step in range(100) for first in (0, 4)]
    rows = np.concatenate([place.rows for place in places])
    epochs = np.concatenate([place.epochs for place in places])
    for low, high in ((0, 7), (7, 57)):
        own = (rows >= low) & (rows < high)
        assert own.sum() == pytest.approx(400, abs=20)
        for epoch in range(int(epochs[own].max())):
            assert np.array_equal(np.sort(rows[own & (epochs == epoch)]), np.arange(low, high))
