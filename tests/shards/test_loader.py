"""One global sequence, whatever the ranks, the workers, the prefetching and the interruptions."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from schemas.config.tokenizer import AugmentConfig
from schemas.errors import UsageError, VtokError
from tests.shards.making import clip_name, frames_of, make_shards
from tests.shards.test_order import in_full
from tests.waiting import Children
from vtok import stepping
from vtok.shards.loader import ClipBatch, ClipBatches, ClipLoader, Last
from vtok.shards.reader import ShardReader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
SIZES = (4, 3, 5, 2, 4)
CLIPS = sum(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": list(SIZES), "test": [1]})


def _loader(
    folder: Path,
    batch_size: int = 4,
    *,
    split: str = "train",
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    last: Last = "drop",
    augment: AugmentConfig | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> ClipLoader:
    reader = ShardReader(folder, split, seed=seed, rank=rank, world=world)
    return ClipLoader(ClipBatches(reader, batch_size, last=last, augment=augment), workers=workers, prefetch=prefetch)


def _numbers(batch: ClipBatch) -> list[int]:
    return [meta["number"] for meta in batch.metas]


def _take(loader: ClipLoader, count: int) -> list[list[int]]:
    taken = [_numbers(batch) for batch in itertools.islice(loader.forever(), count)]
    loader.close()
    return taken


def _expected(sizes: tuple[int, ...], seed: int, batch_size: int, last: Last, steps: range) -> list[list[int]]:
    """The global batches of some steps, from whole epochs."""
    starts = [0, *itertools.accumulate(sizes)]
    per_epoch = sum(sizes) // batch_size if last == "drop" else math.ceil(sum(sizes) / batch_size)
    out = []
    for step in steps:
        epoch, batch = divmod(step, per_epoch)
        clips = [starts[shard] + clip for shard, clip in in_full(list(sizes), seed, epoch, True)]
        endless = itertools.cycle(clips)
        out.append(list(itertools.islice(endless, batch * batch_size, (batch + 1) * batch_size)))
    return out


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def make(sizes: tuple[int, ...]) -> Path:
        return make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": list(sizes)})

    return make


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    sizes=st.sampled_from([(1,), (6,), (2, 1, 3), SIZES, (1,) * 9, (3, 0, 8, 1, 1, 2, 2)]),
    seed=st.integers(0, 2),
    worlds=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    workers=st.tuples(st.sampled_from([0, 1, 3]), st.sampled_from([0, 2])),
    multiple=st.integers(1, 2),
    last=st.sampled_from(["drop", "pad"]),
    start=st.integers(0, 12),
    counts=st.tuples(st.integers(0, 5), st.integers(1, 6)),
)
def test_the_global_sequence_never_changes(
    making: Any,
    sizes: tuple[int, ...],
    seed: int,
    worlds: tuple[int, int],
    workers: tuple[int, int],
    multiple: int,
    last: Last,
    start: int,
    counts: tuple[int, int],
) -> None:
    """Some batches on some ranks, then the state is taken, and the rest is read on others."""
    batch_size = math.lcm(*worlds) * multiple
    folder = making(sizes)
    sizes = tuple(size for size in sizes if size)
    if last == "drop" and sum(sizes) < batch_size:
        with pytest.raises(UsageError, match="fewer than one batch"):
            _loader(folder, batch_size, last=last)
        return
    taken: list[list[int]] = []
    states: list[str] = []
    for stage, world in enumerate(worlds):
        parts, after = [], set()
        for rank in range(world):
            own_workers = workers[stage] if rank == 0 else 0  # not even the ranks need the same number
            loader = _loader(folder, batch_size, seed=seed, rank=rank, world=world, last=last, workers=own_workers)
            if stage:
                loader.load_state_dict(json.loads(states[0]))
            else:
                loader.seek(start)
            parts.append(_take(loader, counts[stage]))
            after.add(json.dumps(loader.state_dict()))
        states = sorted(after)
        assert len(states) == 1, "every rank's state is the same"
        taken += [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)]
    assert taken == _expected(sizes, seed, batch_size, last, range(start, start + sum(counts)))


@pytest.mark.parametrize("last", ["drop", "pad"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_epoch_shows_every_clip_once_and_counts_what_it_does_not(folder: Path, last: Last, world: int) -> None:
    for epoch in range(3):
        seen, valid, batches = [], [], set()
        for rank in range(world):
            loader = _loader(folder, 4, rank=rank, world=world, last=last)
            loader.seek(epoch * loader.batches.per_epoch)
            assert loader.epoch == epoch
            got = list(loader)
            batches.add(len(got))
            seen += [number for batch in got for number in _numbers(batch)]
            valid += [bool(value) for batch in got for value in batch.valid_b]
        assert batches == {loader.batches.per_epoch} == {4 if last == "drop" else 5}
        once = [number for number, good in zip(seen, valid, strict=True) if good]
        assert len(once) == len(set(once)) == CLIPS - loader.batches.dropped
        assert len(seen) - len(once) == loader.batches.padded
        assert (loader.batches.dropped, loader.batches.padded) == ((2, 0) if last == "drop" else (0, 2))


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (3, 4), (7, 1)])  # 7: more than there are shards
def test_workers_and_prefetching_change_nothing(folder: Path, workers: int, prefetch: int) -> None:
    augment = AugmentConfig(crop=8, flip=True)
    alone, shared = (_loader(folder, 4, augment=augment, workers=count, prefetch=prefetch) for count in (0, workers))
    children = Children()
    for _ in range(3):  # three epochs, and the workers live on
        pids = set()
        for wanted, found in zip(alone, shared, strict=True):
            for one, other in zip(wanted, found, strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
            pids.add(frozenset(process.pid for process in children.alive()))
        assert len(pids) == 1
        assert len(next(iter(pids))) == workers
    shared.close()
    assert shared.step == alone.step == 3 * alone.batches.per_epoch


def test_a_batch_is_what_was_stored(folder: Path) -> None:
    for workers in (0, 1):
        loader = _loader(folder, 4, workers=workers)
        for batch in loader:
            assert isinstance(batch, ClipBatch)
            assert (batch.video_bthwc.dtype, batch.labels_b.dtype, batch.valid_b.dtype) == (
                np.uint8,
                np.int64,
                np.bool_,
            )
            for number, name, label, video in zip(
                _numbers(batch), batch.clip_ids, batch.labels_b, batch.video_bthwc, strict=True
            ):
                assert (name, label) == (clip_name(number), number % 3)
                np.testing.assert_array_equal(video, frames_of(number))
        loader.close()


def test_the_state_counts_what_was_handed_out_not_what_was_prefetched(folder: Path) -> None:
    whole = _take(_loader(folder, 4), 12)
    loader = _loader(folder, 4, workers=2, prefetch=4)
    got = []
    for batch in loader.forever():
        got.append(_numbers(batch))
        state = loader.state_dict()  # taken while the batch is in use: it counts
        assert state["step"] == len(got)
        if len(got) == 5:
            break
    resumed = _loader(folder, 4, world=2, rank=1, workers=1)
    resumed.load_state_dict(state)
    assert got == whole[:5]
    assert _take(resumed, 7) == [batch[2:] for batch in whole[5:]]
    assert _numbers(next(iter(loader))) == whole[5]  # the first one goes on, too
    loader.close()
    loader.seek(2)
    assert [_numbers(batch) for batch in loader] == whole[2:4]  # the rest of the epoch


def test_the_state_is_small(folder: Path) -> None:
    loader = _loader(folder, 4)
    loader.seek(10**15)
    assert len(json.dumps(loader.state_dict())) <= 512
    assert _take(loader, 1) == _expected(SIZES, 0, 4, "drop", range(10**15, 10**15 + 1))


def test_another_ones_state_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    state = _loader(folder, 4).state_dict()
    other = make_shards(tmp_path / "s", {"train": [4, 3]})
    cases = {
        "seed is 1 here and 0 in the state": _loader(folder, 4, seed=1),
        "batch_size is 2 here and 4 in the state": _loader(folder, 2),
        'last is "pad" here and "drop" in the state': _loader(folder, 4, last="pad"),
        'split is "test" here and "train" in the state': _loader(folder, 4, split="test", last="pad"),
        "shards is": _loader(other, 4),
        "augment is": _loader(folder, 4, augment=AugmentConfig(flip=True)),
    }
    for message, loader in cases.items():
        loader.seek(3)
        with pytest.raises(UsageError, match=message) as caught:
            loader.load_state_dict(state)
        if "shards" in message:
            assert state["shards"] in caught.value.what
            assert loader.state_dict()["shards"] in caught.value.what
        assert loader.step == 3, "a refused state changes nothing"
    loader = _loader(folder, 4)
    for broken, message in (({}, "shards is"), ({**state, "step": -1}, "step is -1"), ({**state, "step": "2"}, "step")):
        with pytest.raises(UsageError, match=message):
            loader.load_state_dict(broken)


def test_too_few_clips(folder: Path) -> None:
    with pytest.raises(UsageError, match="split 'test' has 1 clips: fewer than one batch of 2") as caught:
        _loader(folder, 2, split="test")
    assert "batch_size" in caught.value.hint
    for last in ("drop", "pad"):
        with pytest.raises(UsageError, match="split 'val' has 0 clips"):
            _loader(folder, 2, split="val", last=last)
    with pytest.raises(UsageError, match="does not divide by 3 ranks"):
        _loader(folder, 4, world=3)
    padded = _loader(folder, 4, split="test", last="pad", workers=2)  # fewer shards than workers, fewer clips than both
    (batch,) = list(padded)
    padded.close()
    assert (_numbers(batch), batch.valid_b.tolist()) == ([CLIPS] * 4, [True, False, False, False])


def test_the_batches_are_a_dataset_for_torch(folder: Path) -> None:
    batches = _loader(folder, 4).batches
    loader: Any = DataLoader(batches, sampler=range(2, 6), batch_size=None, num_workers=2)  # type: ignore[arg-type]
    assert [_numbers(batch) for batch in loader] == _expected(SIZES, 0, 4, "drop", range(2, 6))


def test_no_global_randomness_is_used(folder: Path) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    _take(_loader(folder, 4, workers=1, augment=AugmentConfig(flip=True)), 3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]


def test_ctrl_c_leaves_the_workers_to_the_training_loop(folder: Path) -> None:
    loader, children = _loader(folder, 4, workers=2), Children()
    stream = loader.forever()
    got = [_numbers(next(stream))]
    for worker in children.alive():
        os.kill(int(worker.pid or 0), signal.SIGINT)
    got += [_numbers(next(stream)) for _ in range(9)]
    loader.close()
    assert got == _expected(SIZES, 0, 4, "drop", range(10))


def test_ctrl_c_before_a_worker_has_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = stepping._start_worker
    monkeypatch.setattr(stepping, "_start_worker", lambda n: (os.kill(os.getpid(), signal.SIGINT), start(n)))
    loader = _loader(folder, 4, workers=1)
    assert _take(loader, 2) == _expected(SIZES, 0, 4, "drop", range(2))


def test_workers_end_with_the_loader(folder: Path) -> None:
    loader, children = _loader(folder, 4, workers=2), Children()
    next(iter(loader))
    assert len(children.alive()) == 2
    del loader
    children.wait_for_their_end()


def test_a_lost_worker_is_an_error_and_the_position_is_kept(folder: Path) -> None:
    loader, children = _loader(folder, 4, workers=1, prefetch=1), Children()
    stream = loader.forever()
    got = [_numbers(next(stream))]
    (worker,) = children.alive()
    with pytest.raises(VtokError, match="a process that decodes clips was lost"):  # noqa: PT012
        os.kill(int(worker.pid or 0), signal.SIGKILL)
        while True:  # what it had made is handed out first
            got.append(_numbers(next(stream)))
    loader.workers = 0
    got += _take(loader, 3)
    assert got == _expected(SIZES, 0, 4, "drop", range(len(got)))


def _rank(rank: int, world: int, folder: str, shards: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    loader = _loader(Path(shards), 4, rank=rank, world=world, workers=rank)
    counts, numbers = [], []
    for _ in range(2):
        batches = [_numbers(batch) for batch in loader]
        total = torch.tensor(len(batches))
        dist.all_reduce(total)
        counts.append((len(batches), int(total)))
        numbers += batches
    loader.close()
    Path(folder, f"{rank}.json").write_text(json.dumps([counts, numbers]))
    dist.destroy_process_group()


def test_two_processes_get_the_same_number_of_batches_and_share_each(folder: Path, tmp_path: Path) -> None:
    mp.spawn(_rank, args=(2, str(tmp_path), str(folder)), nprocs=2)
    (counts, first), (other_counts, second) = (json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2))
    assert counts == other_counts == [[4, 8], [4, 8]]
    assert [a + b for a, b in zip(first, second, strict=True)] == _expected(SIZES, 0, 4, "drop", range(8))
