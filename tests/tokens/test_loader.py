"""One global sequence of codes, whatever the ranks, the workers, the prefetching and the interruptions."""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import UsageError, VtokError
from tests.tokens.making import GRID, codes_of_clip, make_store
from tests.waiting import Children
from vtok import artefacts
from vtok.artefacts import Part
from vtok.tokens.coverage import combine
from vtok.tokens.loader import TokenBatch, TokenLoader, clips_at
from vtok.tokens.order import RowOrder
from vtok.tokens.store import TokenStore

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
BATCH = 4
CLIPS = 30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    sizes = {"train": [13, 0, 17], "test": [2]}
    return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", sizes))


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def make(sizes: tuple[int, ...]) -> TokenStore:
        return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", {"train": list(sizes)}))

    return make


def loader_of(store: TokenStore, batch_size: int = BATCH, split: str = "train", **options: Any) -> TokenLoader:
    return TokenLoader(store, split, batch_size, **{"seed": 0, **options})


def take(loader: TokenLoader, count: int) -> list[list[int]]:
    """The labels, which are the numbers of the clips."""
    taken = [batch.labels_b.tolist() for batch in itertools.islice(loader.forever(), count)]
    loader.close()
    return taken


def expected(rows: int, seed: int, batch_size: int, last: str, steps: range) -> list[list[int]]:
    """The global batches of some steps, from whole epochs."""
    per_epoch = rows // batch_size if last == "drop" else math.ceil(rows / batch_size)
    out = []
    for step in steps:
        epoch, batch = divmod(step, per_epoch)
        endless = itertools.cycle(RowOrder(rows, seed=seed, epoch=epoch)(0, rows).tolist())
        out.append(list(itertools.islice(endless, batch * batch_size, (batch + 1) * batch_size)))
    return out


CASES: dict[str, Any] = {
    "sizes": st.sampled_from([(1,), (6,), (2, 1, 3), (1,) * 9, (3, 0, 8, 1, 1, 2, 2)]),
    "seed": st.integers(0, 2),
    "worlds": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "workers": st.tuples(st.sampled_from([0, 0, 0, 1, 3]), st.sampled_from([0, 0, 0, 2])),
    "prefetch": st.integers(1, 4),
    "multiple": st.integers(1, 2),
    "last": st.sampled_from(["drop", "pad"]),
    "start": st.integers(0, 12),
    "counts": st.tuples(st.integers(0, 5), st.integers(1, 6)),
}
USUAL = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@USUAL
@given(**CASES)
def test_the_global_sequence_never_changes(making: Any, **case: Any) -> None:
    check_the_global_sequence(making, **case)


@pytest.mark.soak
@settings(USUAL, max_examples=200)
@given(**CASES)
def test_the_global_sequence_never_changes_in_many_cases(making: Any, **case: Any) -> None:
    check_the_global_sequence(making, **case)


def check_the_global_sequence(
    making: Any,
    sizes: tuple[int, ...],
    seed: int,
    worlds: tuple[int, int],
    workers: tuple[int, int],
    prefetch: int,
    multiple: int,
    last: str,
    start: int,
    counts: tuple[int, int],
) -> None:
    """Some batches on some ranks, then the state is taken, and the rest is read on others."""
    batch_size, rows = math.lcm(*worlds) * multiple, sum(sizes)
    options = {"seed": seed, "last": last, "prefetch": prefetch}
    if last == "drop" and rows < batch_size:
        with pytest.raises(UsageError, match="fewer than one batch"):
            loader_of(making(sizes), batch_size, **options)
        return
    taken: list[list[int]] = []
    states: list[str] = []
    for stage, world in enumerate(worlds):
        parts, after = [], set()
        for rank in range(world):
            own = workers[stage] if rank == 0 else 0  # not even the ranks need the same number
            loader = loader_of(making(sizes), batch_size, rank=rank, world=world, workers=own, **options)
            if stage:
                loader.load_state_dict(json.loads(states[0]))
            else:
                loader.seek(start)
            parts.append(take(loader, counts[stage]))
            after.add(json.dumps(loader.state_dict()))
        states = sorted(after)
        assert len(states) == 1, "every rank's state is the same"
        taken += [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)]
    assert taken == expected(rows, seed, batch_size, last, range(start, start + sum(counts)))


def test_a_batch_holds_what_was_stored(store: TokenStore) -> None:
    for workers in (0, 1):
        loader = loader_of(store, workers=workers)
        for batch in itertools.islice(loader.forever(), 9):
            assert isinstance(batch, TokenBatch)
            assert (batch.codes_bthw.shape, batch.codes_bthw.dtype) == ((BATCH, *GRID), np.int64)
            for codes, label in zip(batch.codes_bthw, batch.labels_b, strict=True):
                assert np.array_equal(codes.reshape(-1), codes_of_clip(int(label), 64))
            assert batch.clip_ids == [f"clip-{label:04d}" for label in batch.labels_b]
            assert (batch.view_ids, batch.captions) == (["whole"] * BATCH, [None] * BATCH)
            assert batch.boxes_b6.tolist() == [[0, 2, 0, 2, 0, 3]] * BATCH
            assert batch.valid_b.all() and batch.cond_frames_bthwc is None and batch.audio_codes_bn is None
            assert np.array_equal(batch.rows_b, batch.labels_b)
        loader.close()


def test_seeds_and_epochs_differ_and_no_clip_comes_twice_in_one(store: TokenStore) -> None:
    assert take(loader_of(store), 20) == take(loader_of(store), 20) != take(loader_of(store, seed=1), 20)
    epochs = []
    loader = loader_of(store)
    for epoch in range(3):
        assert loader.epoch == epoch
        seen = list(itertools.chain(*(batch.labels_b.tolist() for batch in loader)))
        assert len(seen) == CLIPS // BATCH * BATCH == len(set(seen))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]
    assert set().union(*epochs) == set(range(CLIPS)), "the clips that an epoch drops must differ"
    plain = loader_of(store, shuffle=False)
    assert take(plain, 8) == [list(range(at, at + 4)) for at in (*range(0, 28, 4), 0)]


def test_persistent_workers_over_epochs_and_their_borders(store: TokenStore) -> None:
    alone, shared = loader_of(store, last="pad"), loader_of(store, last="pad", workers=2)
    pids, children = set(), Children()
    for _ in range(3):
        for wanted, found in zip(alone, shared, strict=True):
            assert wanted.labels_b.tolist() == found.labels_b.tolist()
            assert wanted.valid_b.tolist() == found.valid_b.tolist()
        pids.add(frozenset(process.pid for process in children.alive()))
        state = shared.state_dict()  # at the border of two epochs
        again = loader_of(store, last="pad")
        again.load_state_dict(state)
        again.load_state_dict(again.state_dict())  # twice in a row
        assert take(again, 2) == take_at(store, state["step"], 2, last="pad")
    shared.close()
    assert len(pids) == 1 and len(next(iter(pids))) == 2
    assert shared.step == 3 * shared.source.per_epoch
    children.wait_for_their_end()


def take_at(store: TokenStore, step: int, count: int, **options: Any) -> list[list[int]]:
    loader = loader_of(store, **options)
    return [batch.labels_b.tolist() for batch in itertools.islice(loader.batches(step), count)]


@pytest.mark.parametrize("last", ["drop", "pad"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_receipt_of_an_epoch(store: TokenStore, last: str, world: int) -> None:
    for epoch in (0, 2):
        pieces = []
        for rank in range(world):
            loader = loader_of(store, rank=rank, world=world, last=last)
            loader.seek(epoch * loader.source.per_epoch)
            count = sum(1 for _ in loader)
            assert count == loader.batches_per_epoch == (7 if last == "drop" else 8)
            assert loader.finished is not None
            pieces.append(loader.finished)
        receipt = combine(pieces)
        assert receipt.sound
        assert (receipt.once, receipt.total) == ((28, 30) if last == "drop" else (30, 30))
        left_out = ", 2 left out because they fill no batch" if last == "drop" else ""
        assert str(receipt) == f"epoch {epoch}: {receipt.once} of 30 clips seen exactly once{left_out}"


def test_a_receipt_names_what_is_missing_or_twice(store: TokenStore) -> None:
    first, second = (loader_of(store, last="pad", rank=rank, world=2) for rank in range(2))
    list(first)
    second.seek(1)  # its first batch is lost
    rest = [batch.rows_b.tolist() for batch in second]
    assert rest
    lost = expected(CLIPS, 0, BATCH, "pad", range(1))[0][2:]
    assert first.finished and second.finished
    receipt = combine([first.finished, second.finished])
    assert not receipt.sound and receipt.missing == sorted(lost) and receipt.repeated == []
    assert f"rows missing: {sorted(lost)}" in str(receipt)
    twice = combine([first.finished, second.finished, second.finished])
    assert len(twice.repeated) == 12 and not twice.sound
    assert first.finished.receipt()["clips"] == 16


def test_the_state_counts_what_was_handed_out_not_what_was_prefetched(store: TokenStore) -> None:
    whole = take(loader_of(store), 12)
    loader = loader_of(store, workers=2, prefetch=4)
    for number, batch in enumerate(loader.forever(), 1):
        assert batch.labels_b.tolist() == whole[number - 1]
        assert loader.state_dict()["step"] == number
        if number == 5:
            break
    resumed = loader_of(store, rank=1, world=2)
    resumed.load_state_dict(loader.state_dict())
    assert take(resumed, 7) == [batch[2:] for batch in whole[5:]]
    loader.close()


def test_the_state_is_small_and_any_position_is_reached(store: TokenStore) -> None:
    loader = loader_of([store] * 9, weights=[1.0] * 9)  # type: ignore[arg-type]
    loader.seek(10**15)
    assert len(json.dumps(loader.state_dict())) <= 1024
    loader = loader_of(store)
    loader.seek(10**15)
    assert take(loader, 1) == expected(CLIPS, 0, BATCH, "drop", range(10**15, 10**15 + 1))


def test_the_state_of_a_thousand_stores_is_small(tmp_path: Path) -> None:
    store = TokenStore(make_store(tmp_path / "tokens", {"train": [3]}))
    splits = ["train", *(f"split-{number:04d}" for number in range(300))]
    views = ["whole", *(f"view-ü-{number:04d}" for number in range(300))]

    def loader(count: int, last_weight: float = 1.0, **options: Any) -> TokenLoader:
        weights = [1.0] * (count - 1) + [last_weight]
        return TokenLoader([store] * count, options.pop("splits", splits), 4, seed=2**63, weights=weights, **options)

    many = loader(1000)
    state = {**many.state_dict(), "step": 10**12}
    assert len(json.dumps(state)) <= 1024
    again = loader(1000)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.step == 10**12
    with pytest.raises(UsageError, match=r'weights is "1000 weights [0-9a-f]{64}" here and "1000 weights'):
        loader(1000, 3.0).load_state_dict(state)
    four = loader(4, views=views)
    assert len(json.dumps({**four.state_dict(), "step": 10**12})) <= 1024, "with all stores named, and views"
    with pytest.raises(UsageError, match="splits is"):
        loader(4, views=views, splits=splits[:-1]).load_state_dict(four.state_dict())
    before = {**four.state_dict(), "splits": splits, "views": sorted(views)}
    four.load_state_dict(before)  # as they were saved once
    few = loader(4, splits=["train", "test"], views=["b", "whole"]).state_dict()
    assert (few["splits"], few["weights"], few["views"]) == (["train", "test"], [256] * 4, ["b", "whole"])


def test_another_ones_state_is_refused_by_name(store: TokenStore, making: Any) -> None:
    state = loader_of(store).state_dict()
    cases = {
        "seed is 1 here and 0 in the state": loader_of(store, seed=1),
        "batch_size is 2 here and 4 in the state": loader_of(store, 2),
        'last is "pad" here and "drop" in the state': loader_of(store, last="pad"),
        r'splits is \["test"\] here and \["train"\] in the state': loader_of(store, split="test", last="pad"),
        f"stores is .* here and .*{store.card.fingerprint}": loader_of(making((2, 1, 3))),
        'order is "parts" here and "rows" in the state': loader_of(store, order="parts"),
    }
    for message, loader in cases.items():
        loader.seek(3)
        with pytest.raises(UsageError, match=message):
            loader.load_state_dict(state)
        assert loader.step == 3, "a refused state changes nothing"
    for broken, message in (
        ({}, "stores is"),
        ({**state, "step": -1}, "step is -1"),
        ({**state, "later": 1}, "later is null here and 1 in the state"),
    ):
        with pytest.raises(UsageError, match=message):
            loader_of(store).load_state_dict(broken)


def test_too_few_clips(store: TokenStore) -> None:
    with pytest.raises(UsageError, match="split 'test' has 2 clips: fewer than one batch of 4") as caught:
        loader_of(store, split="test")
    assert "batch_size" in caught.value.hint
    with pytest.raises(UsageError, match="split 'val' has 0 clips"):
        loader_of(store, split="val", last="pad")
    with pytest.raises(UsageError, match="does not divide by 3 ranks"):
        loader_of(store, world=3)
    (batch,) = list(loader_of(store, split="test", last="pad", workers=2))
    assert batch.labels_b.tolist() == [-1] * 4 and batch.valid_b.tolist() == [True, True, False, False]


def test_several_splits_and_the_order_by_parts(store: TokenStore) -> None:
    both = TokenLoader(store, ["train", "test"], 4, seed=0)
    rows = [row for batch in both for row in batch.clip_ids]
    assert both.clips == len(rows) == 32 and set(rows) == {f"clip-{n:04d}" for n in range(32)}
    by_parts = take(loader_of(store, order="parts"), 14)
    assert len(set(itertools.chain(*by_parts[:7]))) == 28
    assert [take_at(store, step, 1, order="parts")[0] for step in range(14)] == by_parts


def test_which_clips_feed_a_step(store: TokenStore) -> None:
    loader = loader_of(store)
    names = [batch.clip_ids for batch in itertools.islice(loader.forever(), 9)]
    for step in (0, 6, 8):
        found = clips_at(loader.source, step)
        assert [one["clip_id"] for one in found] == names[step]
    half = loader_of(store, world=2)
    assert [one["clip_id"] for one in clips_at(half.source, 8, rank=1)] == names[8][2:]


def test_no_global_randomness_is_used(store: TokenStore) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    take(loader_of(store, workers=1), 3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]


def _rank(rank: int, world: int, folder: str, tokens: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    loader = loader_of(TokenStore(tokens), 8, rank=rank, world=world, last="pad", workers=rank % 2)
    counts, numbers, receipts = [], [], []
    for _ in range(2):
        batches = [batch.labels_b.tolist() for batch in loader]
        total = torch.tensor(len(batches))
        dist.all_reduce(total)
        counts.append((len(batches), int(total)))
        numbers += batches
        pieces: list[Any] = [None] * world
        dist.all_gather_object(pieces, loader.finished)
        receipts.append(str(combine(pieces)))
    loader.close()
    Path(folder, f"{rank}.json").write_text(json.dumps([counts, numbers, receipts]))
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_processes_get_the_same_number_of_batches_and_share_each(store: TokenStore, tmp_path: Path, world: int) -> None:
    """30 clips in batches of 8, over ranks of a real process group, and the receipt that they agree on."""
    mp.spawn(_rank, args=(world, str(tmp_path), str(store.folder)), nprocs=world)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    assert all(counts == [[4, 4 * world]] * 2 for counts, _, _ in found)
    together = [list(itertools.chain(*shares)) for shares in zip(*(numbers for _, numbers, _ in found), strict=True)]
    assert together == expected(CLIPS, 0, 8, "pad", range(8))
    assert found[0][2] == [f"epoch {epoch}: 30 of 30 clips seen exactly once" for epoch in range(2)]


def test_opening_and_resuming_look_at_no_part(tmp_path: Path) -> None:
    """Ten thousand parts, ten million rows, and none of the files is there: the index says all that is needed."""
    names = [f"train-{number:05d}.parquet" for number in range(10_000)]
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, {}, names)
    artefacts.begin(tmp_path, plan)
    parts = [Part(name, "train", 1000, 10**6, f"{number:064x}") for number, name in enumerate(names)]
    facts = {"tokenizer": "a" * 64, "codebook_size": 64, "grid": [4, 16, 16], "mode": "exact", "classes": []}
    artefacts.seal(tmp_path, plan, parts, counts={"clips": 10**7}, facts=facts)
    loader = loader_of(TokenStore(tmp_path), 16)
    assert (loader.clips, loader.batches_per_epoch) == (10**7, 625_000)
    loader.seek(562_500)
    again = loader_of(TokenStore(tmp_path), 16, rank=3, world=4)
    again.load_state_dict(loader.state_dict())
    rows = loader.source.rows_at(again.step)
    assert len(set(rows.tolist())) == 16 and rows.max() < 10**7
    assert np.array_equal(again.source.rows_at(again.step, rank=3), rows[12:])
    with pytest.raises(VtokError, match="a part is missing") as caught:
        next(again.forever())
    assert caught.value.at.endswith(".parquet")
