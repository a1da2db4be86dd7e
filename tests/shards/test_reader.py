from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from schemas.errors import IntegrityError, UsageError, VtokError
from tests.shards.making import clip_name, frames_of, make_shards
from vtok.shards import reader as reader_module
from vtok.shards.reader import ShardReader, read_shard

SIZES = {"train": [7, 5, 6, 4, 7, 5, 1], "test": [3, 2]}
TRAIN = sum(SIZES["train"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "s", SIZES)


def _numbers(clips: object) -> list[int]:
    return [clip.meta["number"] for clip in clips]  # type: ignore[attr-defined]


def test_store_order_and_content(folder: Path) -> None:
    reader = ShardReader(folder, "train", shuffle=False)
    clips = list(reader.clips(0))
    assert len(reader) == TRAIN
    assert _numbers(clips) == list(range(TRAIN))
    for clip in clips[::5]:
        number = clip.meta["number"]
        np.testing.assert_array_equal(clip.video_thwc, frames_of(number))
        assert (clip.clip_id, clip.label, clip.class_name) == (clip_name(number), number % 3, f"c{number % 3}")
    assert _numbers(ShardReader(folder, "test", shuffle=False).clips(0)) == list(range(TRAIN, TRAIN + 5))
    assert _numbers(read_shard(folder / "train-00001.tar")) == list(range(7, 12))


def test_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    orders = {
        (seed, epoch): _numbers(ShardReader(folder, "train", seed=seed).clips(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    for order in orders.values():
        assert sorted(order) == list(range(TRAIN))
    assert len({tuple(order) for order in orders.values()}) == 4
    reader = ShardReader(folder, "train", seed=1)
    list(reader.clips(0))
    assert _numbers(reader.clips(1)) == orders[1, 1]  # whatever was read before


def test_clips_of_different_shards_are_mixed(folder: Path) -> None:
    order = _numbers(ShardReader(folder, "train", seed=0).clips(0))
    together = sum(abs(a - b) == 1 for a, b in itertools.pairwise(order))
    assert together < TRAIN / 3


@pytest.mark.parametrize("start", [0, 1, 6, 17, 23, TRAIN - 1, TRAIN, TRAIN + 5])
def test_resume_at_any_position(start: int, folder: Path) -> None:
    for shuffle in (True, False):
        reader = ShardReader(folder, "train", seed=3, shuffle=shuffle)
        assert _numbers(reader.clips(2, start)) == _numbers(reader.clips(2))[start:]


def test_batches_are_the_same_on_any_number_of_ranks(folder: Path) -> None:
    alone = [_numbers(b) for b in ShardReader(folder, "train", seed=5).batches(4, 1)]
    assert len(alone) == TRAIN // 4 == ShardReader(folder, "train", seed=5).batches_per_epoch(4)
    for world in (2, 4):
        ranks = [
            [_numbers(b) for b in ShardReader(folder, "train", seed=5, rank=r, world=world).batches(4, 1)]
            for r in range(world)
        ]
        assert len({len(batches) for batches in ranks}) == 1
        assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    resumed = ShardReader(folder, "train", seed=5, rank=1, world=2).batches(4, 1, 3)
    assert [_numbers(b) for b in resumed] == [batch[2:] for batch in alone[3:]]
    with pytest.raises(UsageError):
        list(ShardReader(folder, "train", world=3).batches(4, 0))


def test_memory_is_bounded_by_the_window(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shard of the next window is read before the window's last clip has been taken."""
    read: list[str] = []
    true = reader_module.read_samples

    def watch(path: Path):  # type: ignore[no-untyped-def]
        read.append(path.name)
        return true(path)

    monkeypatch.setattr(reader_module, "read_samples", watch)
    clips = ShardReader(folder, "train", seed=0).clips(0)
    next(clips)
    assert len(read) == reader_module.WINDOW_SHARDS < len(SIZES["train"])
    read.clear()
    next(ShardReader(folder, "train", seed=0).clips(0, TRAIN - 1))
    assert len(read) == len(SIZES["train"]) - reader_module.WINDOW_SHARDS  # windows before are skipped


def test_a_shard_is_verified_once_and_before_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: Counter[str] = Counter()
    true = reader_module.artefacts.verify_part
    monkeypatch.setattr(reader_module.artefacts, "verify_part", lambda f, p, s: (checks.update([p]), true(f, p, s))[1])
    reader = ShardReader(folder, "train")
    for epoch in (0, 1):
        list(reader.clips(epoch))
    assert set(checks.values()) == {1}
    assert len(checks) == len(SIZES["train"])


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "gone"])
def test_damage_never_reaches_a_batch(damage: str, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "s", {"train": [3, 3]})
    path = folder / "train-00001.tar"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1024])
    elif damage == "swap":
        path.write_bytes((folder / "train-00000.tar").read_bytes())
    else:
        path.unlink()
    got = []
    with pytest.raises(VtokError if damage == "gone" else IntegrityError) as caught:
        got.extend(_numbers(ShardReader(folder, "train", shuffle=False).clips(0)))
    assert not set(got) & {3, 4, 5}
    assert path.name in caught.value.at


def test_no_such_split_is_empty(folder: Path) -> None:
    reader = ShardReader(folder, "val")
    assert len(reader) == 0
    assert list(reader.clips(0)) == []
    assert list(reader.batches(2, 0)) == []


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "h264"])
def test_stock_webdataset_reads_the_shards(encoding: str, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "s", {"train": [4]}, encoding)
    found = list(wds.WebDataset(str(folder / "train-00000.tar"), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == [clip_name(n) for n in range(4)]  # the footer is no sample
    ours = list(read_shard(folder / "train-00000.tar"))
    assert [clip.clip_id for clip in ours] == [clip_name(n) for n in range(4)]
    member = {"jpeg": "003.jpg", "raw": "npy.zst", "h264": "mp4"}[encoding]
    assert all(member in sample and "json" in sample for sample in found)
    if encoding == "jpeg":
        decoded = next(iter(wds.WebDataset(str(folder / "train-00000.tar"), shardshuffle=False).decode("rgb8")))
        np.testing.assert_array_equal(decoded["003.jpg"], ours[0].video_thwc[3])
        assert decoded["json"]["label"] == 0
