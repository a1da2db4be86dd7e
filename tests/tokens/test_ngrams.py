"""Frequent runs of codes: exact while they fit, and never further off than the error that is told."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vtok.tokens.ngrams import LARGEST_CODEBOOK, NGrams


def test_runs_do_not_go_from_one_row_into_the_next() -> None:
    runs = NGrams(2, 8, capacity=100)
    runs.add(np.array([[1, 2, 3], [3, 1, 2]], dtype=np.uint16))
    assert runs.total == 4
    assert runs.most(2) == [((1, 2), 2, 0), ((2, 3), 1, 0)]
    runs.add(np.array([[7]], dtype=np.uint16))
    assert runs.total == 4, "a row that is shorter than a run has none"


def test_triples_of_the_largest_codes() -> None:
    size = LARGEST_CODEBOOK
    runs = NGrams(3, size, capacity=100)
    runs.add(np.array([[size - 1, 0, size - 2, size - 1]], dtype=np.uint32))
    assert [found.codes for found in runs.most(5)] == [(0, size - 2, size - 1), (size - 1, 0, size - 2)]
    with pytest.raises(ValueError, match="not counted"):
        NGrams(3, size + 1, capacity=100)


def test_bounded_memory_tells_how_far_off_it_is() -> None:
    """A count is at most the true one, and at least the true one less the error."""
    random = np.random.default_rng(0)
    common = random.integers(0, 10, (40, 200))
    rare = random.integers(0, 500, (40, 200))
    codes = np.where(random.random((40, 200)) < 0.7, common, rare)
    runs = NGrams(2, 500, capacity=600)
    true: Counter[tuple[int, ...]] = Counter()
    for row in codes:
        runs.add(row[None])
        true.update(zip(row[:-1].tolist(), row[1:].tolist(), strict=True))
    found = runs.most(100)
    assert len(true) > 600 and 0 < runs.error <= runs.total / 601
    assert len(found) == 100
    for each in found:
        assert each.times <= true[each.codes] <= each.times + each.error
    assert {codes for codes, _ in true.most_common(20)} <= {each.codes for each in found}
