"""Codebook statistics, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vtok.tokens.stats import health, position_entropy, usage


def test_usage_counts_every_code() -> None:
    assert usage(np.array([[0, 3], [3, 1]], dtype=np.uint16), 5).tolist() == [1, 1, 0, 2, 0]


def test_health_by_hand() -> None:
    facts = health(np.array([2, 1, 1, 0]))  # shares 1/2, 1/4, 1/4: entropy 1.5 bits
    assert facts.codes == 4
    assert facts.entropy_bits == pytest.approx(1.5, abs=1e-12)
    assert facts.perplexity == pytest.approx(2**1.5, abs=1e-12)
    assert facts.dead == 1


def test_health_at_the_ends() -> None:
    assert health(np.full(8, 5)).perplexity == pytest.approx(8)
    assert health(np.array([0, 7, 0])) == (7, 1.0, 0.0, 2)
    assert health(np.zeros(4, dtype=np.int64)) == (0, 1.0, 0.0, 4)


def test_position_entropy_by_hand() -> None:
    codes = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 4], [0, 2, 4]])
    wanted = [0.0, math.log(2), 1.5 * math.log(2)]
    assert position_entropy(codes, 8).tolist() == pytest.approx(wanted, abs=1e-12)
