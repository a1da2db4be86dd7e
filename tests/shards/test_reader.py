from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from schemas.config.data import ShardsConfig
from schemas.errors import IntegrityError, UsageError, VtokError
from tests.shards.making import clip_name, frames_of, make_shards
from vtok.shards import reader as reader_module
from vtok.shards import verified
from vtok.shards.codec import decode_extras, encode_extras
from vtok.shards.reader import ShardReader, read_samples, read_shard
from vtok.shards.verified import ShardFile

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


def test_only_the_clips_asked_for_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    true = ShardFile.sample

    def watch(self: ShardFile, number: int) -> dict[str, Any]:
        read.append((self.path.name, number))
        return true(self, number)

    monkeypatch.setattr(ShardFile, "sample", watch)
    assert len(_numbers(ShardReader(folder, "train").clips(0, TRAIN - 2))) == len(read) == 2
    read.clear()
    for rank in range(2):
        list(ShardReader(folder, "train", rank=rank, world=2).batches(4, 3))
    assert len(read) == len(set(read)) == TRAIN // 4 * 4  # no rank reads what another one needs


def test_few_files_are_open_and_each_is_verified_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: Counter[str] = Counter()
    true = verified._read_through
    monkeypatch.setattr(verified, "_read_through", lambda s, path, d: (checks.update([path.name]), true(s, path, d))[1])
    monkeypatch.setattr(reader_module, "OPEN_FILES", 2)
    reader = ShardReader(folder, "train", verify="always")
    for epoch in (0, 1):
        for _ in reader.clips(epoch):
            assert 1 <= len(reader._files) <= 2
    assert checks == Counter({f"train-{i:05d}.tar": 1 for i in range(len(SIZES["train"]))})


def test_a_reader_goes_to_another_process_without_its_open_files(folder: Path) -> None:
    reader = ShardReader(folder, "train", seed=2)
    wanted = _numbers(reader.clips(1))
    there = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert there._files == {}
    assert _numbers(there.clips(1)) == wanted


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "h264"])
def test_samples_are_those_of_the_webdataset_library(encoding: str, tmp_path: Path) -> None:
    extras = {"pose.npy": b"1", "Audio.WAV": b"22", "a.b.c": b""}
    folder = make_shards(tmp_path / "s", {"train": [3]}, encoding, extras)
    path, row = folder / "train-00000.tar", ShardReader(folder, "train").shards[0]
    file = ShardFile(path, row["sha256"], 3, verify="node")
    theirs = [{k: v for k, v in sample.items() if k != "__url__"} for sample in read_samples(path)]
    theirs = [{k: v for k, v in sample.items() if k != "__local_path__"} for sample in theirs]
    assert [file.sample(number) for number in range(3)] == theirs
    for clip in [*ShardReader(folder, "train").clips(0), *read_shard(path)]:
        assert clip.extras == {"pose.npy": b"1", "audio.wav": b"22", "a.b.c": b""}


def test_what_belongs_to_a_clip_besides_its_frames(tmp_path: Path) -> None:
    heard, pose = np.arange(-4, 4, dtype=np.int16), np.arange(8.0).reshape(4, 2)
    extras = encode_extras({"audio": heard, "pose": pose}, ShardsConfig(audio_rate=8000))
    folder = make_shards(tmp_path / "s", {"train": [2]}, "jpeg", extras)
    for clip in ShardReader(folder, "train").clips(0):
        found = decode_extras(clip.extras)
        np.testing.assert_array_equal(found["audio"].reshape(-1), heard)
        np.testing.assert_array_equal(found["pose"], pose)


def test_reading_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom vtok.shards.reader import ShardReader\n"
        f"print(next(iter(ShardReader({str(folder)!r}, 'train').batches(2, 0)))[0].video_thwc.shape)\n"
        "print([name for name in ('torch', 'webdataset', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(4, 16, 16, 3)", "[]"]


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
