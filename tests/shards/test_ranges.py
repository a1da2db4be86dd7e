"""Shards in an object store are read as those on a disk: by offset, verified, in workers."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import IntegrityError, VtokError
from schemas.paths import as_path
from tests.s3_server import BUCKET, Server
from tests.shards.making import make_shards
from tests.waiting import Children
from vtok.files import write_bytes
from vtok.shards import verified
from vtok.shards.loader import ClipBatches, ClipLoader
from vtok.shards.ranges import open_ranges
from vtok.shards.reader import ShardReader

SIZES = [5, 4, 6]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": SIZES})


@pytest.fixture
def remote(local: Path, s3: Server, request: pytest.FixtureRequest) -> Path:
    """A copy of its own in the bucket for every test."""
    folder = as_path(f"s3://{BUCKET}/ranges/{request.node.name}")
    for path in local.iterdir():
        write_bytes(folder / path.name, path.read_bytes())
    return folder


def _ids(reader: ShardReader) -> list[str]:
    return [clip.clip_id for clip in reader.clips(0)]


def test_a_range_is_the_same_on_a_disk_and_in_a_store(local: Path, remote: Path, s3: Server) -> None:
    name = "train-00000.tar"
    data = (local / name).read_bytes()
    for path in (local / name, remote / name):
        ranges = open_ranges(path)
        before = len(s3.requests)
        for start, count in [(0, 10), (5000, 700), (512, 512), (len(data) - 5, 5)]:
            assert ranges.read(start, count) == data[start : start + count]
        assert len(s3.requests) - before == (0 if path == local / name else 4)
        assert len(ranges.read(len(data) - 5, 50)) == 5
        for _ in range(2):
            with ranges.stream(1 << 12) as stream:
                assert stream.read() == data
        ranges.close()
        ranges.close()


def test_clips_and_batches_of_the_bucket(local: Path, remote: Path) -> None:
    here, there = (ShardReader(folder, "train", seed=1) for folder in (local, remote))
    for a, b in zip(here.clips(1), there.clips(1), strict=True):
        assert (a.clip_id, a.meta) == (b.clip_id, b.meta)
        np.testing.assert_array_equal(a.video_thwc, b.video_thwc)
    again = pickle.loads(pickle.dumps(there))  # noqa: S301
    assert _ids(again) == _ids(here)


def test_workers_read_the_bucket(local: Path, remote: Path) -> None:
    children = Children()
    loaders = [
        ClipLoader(ClipBatches(ShardReader(folder, "train"), 3), workers=count)
        for folder, count in ((local, 0), (remote, 1))
    ]
    wanted, found = ([batch.clip_ids for batch in itertools.islice(each.forever(), 7)] for each in loaders)
    assert wanted == found
    loaders[1].close()
    children.wait_for_their_end()


def test_an_object_is_read_through_once_and_then_by_the_clip(
    remote: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ids(ShardReader(remote, "train"))
    monkeypatch.setattr(verified, "_read_through", None)  # from here on, the stamps do
    reader = ShardReader(remote, "train", shuffle=False)
    reader.clip(0, 0)
    before = len(s3.requests)
    reader.clip(0, 3)
    assert len(s3.requests) == before + 1


@pytest.mark.parametrize("stamped", [False, True])
def test_a_flipped_bit_in_the_bucket_never_reaches_a_batch(remote: Path, stamped: bool) -> None:
    if stamped:
        _ids(ShardReader(remote, "train"))
    path = remote / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    write_bytes(path, bytes(data))
    got: list[str] = []
    with pytest.raises(IntegrityError, match="altered after" if stamped else "sha256 differs") as caught:
        got.extend(clip.clip_id for clip in ShardReader(remote, "train", shuffle=False).clips(0))
    assert path.name in caught.value.at
    with pytest.raises(IntegrityError, match="sha256 differs"):
        list(ShardReader(remote, "train", verify="always").clips(0))


def test_a_missing_object(remote: Path) -> None:
    (remote / "train-00002.tar").unlink()
    with pytest.raises(VtokError, match="a part is missing"):
        _ids(ShardReader(remote, "train"))
