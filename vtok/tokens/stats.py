"""How a codebook is used: pure functions on arrays of codes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

_AT_ONCE = 1 << 20  # counts whose logarithms are held at a time


class CodebookHealth(NamedTuple):
    """Usage of a codebook.

    Attributes:
        codes: how many code positions were counted.
        perplexity: exp of the usage entropy, 1 to codebook size.
        entropy_bits: usage entropy, bits per code.
        dead: codes that never occur.
    """

    codes: int
    perplexity: float
    entropy_bits: float
    dead: int


def usage(codes: Integer[np.ndarray, ...], codebook_size: int) -> Int64[np.ndarray, " k"]:
    """How often each code occurs."""
    return np.bincount(codes.reshape(-1), minlength=codebook_size).astype(np.int64)


def health(counts: Int64[np.ndarray, " k"]) -> CodebookHealth:
    """Perplexity, entropy and dead codes of a usage histogram."""
    total = int(counts.sum())
    if total == 0:
        return CodebookHealth(0, 1.0, 0.0, len(counts))
    entropy = entropies(counts[None, :])[0]
    return CodebookHealth(total, float(np.exp(entropy)), float(entropy / np.log(2)), int((counts == 0).sum()))


def position_entropy(codes: Integer[np.ndarray, "n s"], codebook_size: int) -> Float64[np.ndarray, " s"]:
    """Entropy (nats) of the codes at each position over the clips: the loss of a model that knows only positions."""
    out = np.empty(codes.shape[1])
    for position in range(codes.shape[1]):
        out[position] = entropies(np.bincount(codes[:, position], minlength=codebook_size)[None, :])[0]
    return out


def repeats_in_time(codes_nthw: Integer[np.ndarray, "n t h w"]) -> Int64[np.ndarray, " t-1"]:
    """How many codes of latent frames 1, 2, ... are those at the same place one frame before."""
    return (codes_nthw[:, 1:] == codes_nthw[:, :-1]).sum(axis=(0, 2, 3), dtype=np.int64)


def entropies(counts: Integer[np.ndarray, "r k"]) -> Float64[np.ndarray, " r"]:
    """Entropy (nats) of each row of counts; 0 where there are none."""
    out = np.zeros(len(counts))
    step = max(1, _AT_ONCE // max(1, counts.shape[1]))
    for start in range(0, len(counts), step):
        part = counts[start : start + step]
        share = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        out[start : start + step] = 0.0 - (share * logs).sum(axis=1)
    return out
