"""Confidence intervals: how far a measured mean or share may be from the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vtok.seeds import derive

_Z95 = 1.959963984540054  # 97.5th percentile of the normal distribution


class Interval(NamedTuple):
    """A value with its 95% confidence interval; the bounds are None where there is too little data for one."""

    value: float
    low: float | None
    high: float | None


def bootstrap_mean(values: Float[np.ndarray, " n"], groups: Sequence[str], *, seed: int, draws: int = 2000) -> Interval:
    """The mean with a percentile bootstrap interval that resamples whole groups.

    Clips of one video are no independent draws, so videos are resampled, not clips: clip-wise intervals are too narrow.

    Args:
        values: one a clip.
        groups: the video of each clip.
        seed: of the resampling.
        draws: bootstrap rounds.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values")
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(inverse)
    sums = np.bincount(inverse, weights=values.astype(np.float64))
    mean = float(sums.sum() / counts.sum())
    if len(counts) < 2:
        return Interval(mean, None, None)
    chosen = np.random.default_rng(derive(seed, "bootstrap")).integers(len(counts), size=(draws, len(counts)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def wilson(hits: int, total: int) -> Interval:
    """A share with the Wilson score interval, which holds near 0 and 1 and for few trials.

    Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.

    Raises:
        ValueError: there were no trials.
    """
    if total < 1:
        raise ValueError("no trials")
    share, z2 = hits / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))
