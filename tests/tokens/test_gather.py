"""Batches that are gathered at once are, field by field, what their rows are one by one."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokens.making import GRID, token_row
from tests.tokens.stores import store_of
from vtok.shards.order import EpochOrder
from vtok.tokens.batches import TokenBatch, TokenBatches
from vtok.tokens.cache import FlatCache
from vtok.tokens.gather import Texts, gather
from vtok.tokens.order import PartsOrder
from vtok.tokens.store import TokenStore

CLIPS = 23
TEXTS = [None, "", "a", "ein Käfer", "八つの字ほど長い文"]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """`plain`: every row takes as many bytes; `texts`: they differ, some have none; `wide`: codes of 32 bits."""
    rows = []
    for number in range(CLIPS):
        row = token_row(number, "train", 70_000 if kind == "wide" else 64)
        if kind == "texts":
            row |= {"clip_id": "x" * (number % 11) + str(number), "view_id": f"v{number % 3}"}
            row["windowed_from"] = TEXTS[number % 3]
            row |= {"caption": TEXTS[number % 5], "label": None if number % 4 == 0 else number}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def make(kind: str) -> tuple[TokenStore, Path]:
        folder, rows = tmp_path_factory.mktemp("stores"), rows_of(kind)
        parts = {f"train-{i:05d}.parquet": rows[9 * i : 9 * i + 9] for i in range(3)}
        size = 70_000 if kind == "wide" else 64
        return TokenStore(store_of(folder / "tokens", parts, codebook_size=size)), folder / "cache"

    return make


def one_by_one(batches: TokenBatches, step: int, rank: int) -> TokenBatch:
    """The batch, each row read and unpacked alone."""
    numbers = batches.rows_at(step, rank)
    found = [batches.row(int(number))[1] for number in numbers]
    t, h, w = batches.shape
    at = step % batches.per_epoch * batches.batch_size + rank * len(numbers)
    return TokenBatch(
        np.stack([row.codes_thw.astype(np.int64) for row in found]),
        np.array([row.label for row in found]),
        np.arange(at, at + len(numbers)) < batches.clips,
        [row.clip_id for row in found],
        [row.view_id for row in found],
        [row.caption for row in found],
        [row.windowed_from for row in found],
        np.array([[0, t, 0, h, 0, w]] * len(found)),
        rows_b=numbers,
    )


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["plain", "texts", "wide"]),
    seed=st.integers(0, 3),
    share=st.integers(1, 5),
    world=st.integers(1, 3),
    step=st.integers(0, 60),
    shuffle=st.booleans(),
    order=st.sampled_from(["rows", "parts"]),
    last=st.sampled_from(["drop", "pad"]),
)
def test_a_batch_is_what_its_rows_are(
    making: Any, kind: str, share: int, world: int, step: int, **options: Any
) -> None:
    store, cache = making(kind)
    rank = step % world
    batches = TokenBatches(store, "train", share * world, rank=rank, world=world, cache=cache, **options)
    found, wanted = batches[step], one_by_one(batches, step, rank)
    for name, here, there in zip(TokenBatch._fields, found, wanted, strict=True):
        if isinstance(there, np.ndarray):
            assert isinstance(here, np.ndarray) and here.dtype == there.dtype and np.array_equal(here, there), name
            assert here.flags.writeable, "whoever changes a batch changes that batch"
        else:
            assert here == there, name
    found.codes_bthw[:] = found.boxes_b6[:, :1, None, None] = -7
    assert found.rows_b is not None
    found.rows_b[:], found.valid_b[:] = -7, False
    again = batches[step]
    assert np.array_equal(again.codes_bthw, wanted.codes_bthw) and np.array_equal(again.rows_b, wanted.rows_b)
    assert np.array_equal(again.valid_b, wanted.valid_b) and np.array_equal(again.boxes_b6, wanted.boxes_b6)


def test_texts_are_lists_to_whoever_looks(making: Any) -> None:
    store, cache = making("texts")
    batches = TokenBatches(store, "train", CLIPS, seed=0, shuffle=False, cache=cache)
    captions = batches[0].captions
    wanted = [TEXTS[number % 5] for number in range(CLIPS)]
    assert isinstance(captions, Texts)
    assert len(captions) == CLIPS and captions[1] == "" and captions[-1] == wanted[-1] and captions[1:4] == wanted[1:4]
    assert captions == wanted and wanted == captions and captions == batches[0].captions and list(captions) == wanted
    assert captions != wanted[1:] and captions != batches[0].clip_ids and captions != tuple(wanted)
    assert "a" in captions and captions.index("a") == 2 and repr(captions) == repr(wanted)
    sent = pickle.loads(pickle.dumps(captions))  # noqa: S301
    assert type(sent) is list and sent == wanted
    with pytest.raises(IndexError):
        captions[CLIPS]
    with pytest.raises(TypeError):
        hash(captions)


def test_rows_of_another_grid_are_not_gathered(making: Any) -> None:
    store, cache = making("texts")
    files: FlatCache = TokenBatches(store, "train", 4, seed=0, cache=cache).cache
    code = files.flags.code
    for parts, numbers in (([0], [0]), ([0, 1, 0, 1, 2], [0, 2, 8, 2, 4])):
        records = files.records(parts, numbers)
        assert gather(records, GRID, code) is not None
        assert gather(records, (GRID[1], GRID[2], GRID[0]), code) is None


@pytest.mark.parametrize("shuffle", [True, False])
def test_places_are_found_together_as_they_are_alone(shuffle: bool) -> None:
    sizes = [3, 1, 7, 2, 2, 9, 1, 1, 4, 30, 2]
    for epoch in range(2):
        order = EpochOrder(sizes, seed=5, epoch=epoch, shuffle=shuffle)
        alone = [order.place(position) for position in range(sum(sizes))]
        rows = [sum(sizes[: place.shard]) + place.clip for place in alone]
        together = PartsOrder(sizes, seed=5, epoch=epoch, shuffle=shuffle)
        for start in (0, 1, 13, 40, 61):
            for stop in (start, start + 1, min(start + 17, len(rows)), len(rows)):
                assert together(start, stop).tolist() == rows[start:stop]
