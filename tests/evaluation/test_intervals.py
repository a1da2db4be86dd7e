from __future__ import annotations

import numpy as np
import pytest

from vtok.evaluation.intervals import bootstrap_mean, wilson


def test_wilson_equals_published_figures() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    share, low, high = wilson(81, 263)
    assert (round(share, 4), round(low or 0, 4), round(high or 0, 4)) == (0.3080, 0.2553, 0.3662)
    share, low, high = wilson(0, 20)
    assert (share, low, round(high or 0, 4)) == (0.0, 0.0, 0.1611)


def test_wilson_is_symmetric() -> None:
    a, b = wilson(3, 10), wilson(7, 10)
    assert a.low == pytest.approx(1 - b.high)
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)


def test_bootstrap_is_repeatable_and_covers_the_mean() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 200)
    videos = [str(i) for i in range(200)]
    found = bootstrap_mean(values, videos, seed=3)
    assert found == bootstrap_mean(values, videos, seed=3)
    assert found != bootstrap_mean(values, videos, seed=4)
    assert found.value == pytest.approx(values.mean())
    standard_error = values.std() / np.sqrt(200)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)


def test_bootstrap_resamples_videos() -> None:
    """Ten copies of a clip are worth one clip: the interval must not shrink."""
    values = np.random.default_rng(0).normal(0.0, 1.0, 30)
    videos = [str(i) for i in range(30)]
    once = bootstrap_mean(values, videos, seed=0)
    copied = bootstrap_mean(np.repeat(values, 10), [video for video in videos for _ in range(10)], seed=0)
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_bootstrap_with_one_video_has_no_interval() -> None:
    assert bootstrap_mean(np.array([1.0, 3.0]), ["a", "a"], seed=0) == (2.0, None, None)
