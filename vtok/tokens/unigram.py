"""The loss of a model that knows nothing but positions, or nothing but how often codes occur, on a split of a store.

A small split is counted whole. Of a large one a sample is read, whose size does not grow with the store: the same rows
every time, evenly spread over parts that are evenly spread over the store. The entropy of a sample is lower than that
of all rows (by about (codes in use - 1) / (2 x rows) nats: G. Miller, "Note on the bias of information estimates",
1955), so it stays a hard mark to beat. Positions are gone through one by one: no table of positions x codes is made.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from schemas.tokens import code_type
from vtok.tokens.parts import codes_of
from vtok.tokens.stats import health, position_entropy
from vtok.tokens.store import TokenStore

MOST_CODES = 1 << 26
"""Codes that are read and held at a time: 128 MiB as uint16."""
MOST_BYTES = 256 << 20
"""Bytes of the parts that rows are taken from, as every part is compared with its sha256 in whole."""
FEWEST_PARTS = 16
"""Parts that rows are taken from, however large they are: as many as a training's first batch may need."""
MOST_FOOTERS = 1024
"""Parts whose usage of codes is summed up."""


class Entropy(NamedTuple):
    """What was measured, on how much.

    Attributes:
        nats: mean over the codes of a clip.
        clips: that were counted.
        of: clips that there are.
    """

    nats: float
    clips: int
    of: int

    def __str__(self) -> str:
        return f"{self.nats:.3f} nats over " + (
            f"all {self.of:,} train clips" if self.clips == self.of else f"{self.clips:,} of {self.of:,} train clips"
        )


def positional(store: TokenStore, *, most_codes: int = MOST_CODES, most_bytes: int = MOST_BYTES) -> Entropy:
    """The mean entropy of the codes at each position of the training clips.

    Args:
        store: whose rows have one grid.
        most_codes: that are read.
        most_bytes: of the parts that they are read from, if that is not too few parts.

    Raises:
        UsageError: the rows have different grids.
        IntegrityError: a part is damaged.
    """
    of, positions = store.splits().get("train", 0), math.prod(store.grid)
    codes = _sample(store, min(of, max(1, most_codes // positions)), most_bytes)
    return Entropy(float(position_entropy(codes, store.codebook_size).mean()), len(codes), of)


def overall(store: TokenStore, *, most_footers: int = MOST_FOOTERS) -> Entropy:
    """The entropy of all codes of the training clips, wherever they are; out of the parts' footers.

    Args:
        store: the store.
        most_footers: that are read.

    Raises:
        IntegrityError: a footer is damaged.
    """
    parts = _parts(store)
    chosen = _spread(parts, most_footers)
    counts = store.usage(chosen)
    clips, of = (sum(part["rows"] for part in some) for some in (chosen, parts))
    return Entropy(health(counts).entropy_bits * math.log(2), clips, of)


def _parts(store: TokenStore) -> list[dict[str, Any]]:
    return [part for part in store.parts if part["split"] == "train" and part["rows"]]


def _sample(store: TokenStore, rows: int, most_bytes: int) -> Integer[np.ndarray, "n s"]:
    """The codes of all rows, or of `rows` of them or a few less."""
    parts, of = _parts(store), store.splits().get("train", 0)
    if rows < of:
        size = sum(part["bytes"] for part in parts) / len(parts)
        parts = _spread(parts, min(rows, max(FEWEST_PARTS, int(most_bytes / size))))
    out = np.empty((rows, math.prod(store.grid)), code_type(store.codebook_size).to_pandas_dtype())
    filled, there = 0, sum(part["rows"] for part in parts)
    for part in parts:
        chosen, share = store.row_groups_of(part), part["rows"]
        if rows < of:
            wanted = math.ceil(rows * part["rows"] / there)
            chosen = _spread(chosen, math.ceil(wanted / chosen[0].rows))
            share = math.ceil(wanted / len(chosen))
        for group in chosen:
            codes = _spread(codes_of(store.read(group, ["codes"])), min(share, rows - filled))
            out[filled : filled + len(codes)] = codes
            filled += len(codes)
    return out[:filled]


def _spread(items: Any, count: int) -> Any:
    """So many of a list or of the rows of an array, or all, evenly spread, in order."""
    if count >= len(items):
        return items
    places = np.arange(count) * len(items) // count
    return items[places] if isinstance(items, np.ndarray) else [items[place] for place in places.tolist()]
