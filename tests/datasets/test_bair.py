"""BAIR's native tree, whose records were made by hand (tests/datasets/making_bair.py)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from tests.datasets import making_bair
from tests.datasets.decoding import Made, make
from vtok.datasets.bair import PUBLISHED, list_bair

NATIVE = gzip.decompress(making_bair.FIXTURE.read_bytes())
HALF = len(NATIVE) // 2
NAME = "softmotion30_44k/{}/traj_0_to_1.tfrecords"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: two native records; test: one of 5 frames."""
    short = making_bair.framed(making_bair.example(making_bair.features(2, 5)))
    for split, data in (("train", NATIVE), ("test", short)):
        path = tmp_path / "bair" / NAME.format(split)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return tmp_path / "bair"


def source(split: str, number: int, offset: int = 0, view: str = "image_aux1") -> str:
    return f"{NAME.format(split)}#{number}@{offset}:{view}"


def bair(root: Path, tmp_path: Path, **data: object) -> Made:
    return make(
        root, tmp_path / "out", **{"layout": "bair", "resolution": 64, "num_frames": 5, "source_fps": 10, **data}
    )


def test_the_fixture_is_what_its_maker_makes() -> None:
    assert making_bair.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert making_bair.native() == NATIVE
    assert len(NATIVE) > 2 * 30 * 2 * 64 * 64 * 3


def test_listing_walks_the_framing_only(root: Path) -> None:
    videos = list_bair(root, DataConfig(root=str(root), layout="bair"))
    assert [(v.source, v.split, v.label, v.medium, v.reject) for v in videos] == [
        (source("train", 0), "train", None, "tfrecord", None),
        (source("train", 1, HALF), "train", None, "tfrecord", None),
        (source("test", 0), "test", None, "tfrecord", None),
    ]
    assert PUBLISHED == {"train": 43264, "test": 256}
    inner = list_bair(root / "softmotion30_44k", DataConfig(root=str(root), layout="bair"))
    assert [v.source.removeprefix("train/") for v in inner[:1]] == ["traj_0_to_1.tfrecords#0@0:image_aux1"]


@pytest.mark.parametrize("view", ["image_aux1", "image_main"])
def test_frames_and_signals(root: Path, tmp_path: Path, view: str) -> None:
    made = bair(root, tmp_path, bair_view=view)
    assert made.rejects == {}
    assert {
        (row["fps"], row["frames"], row["height"], row["width"]) for row in made.rows if row["split"] == "train"
    } == {(10.0, 30, 64, 64)}
    clips = made.clips[source("train", 1, HALF, view)]
    assert len(clips) == 6
    frames = np.concatenate([frames for frames, _ in clips])
    np.testing.assert_array_equal(frames, np.stack([making_bair.frame(1, i, view) for i in range(30)]))
    for name, of in (("actions", making_bair.action), ("endeffector_pos", making_bair.position)):
        signal = np.concatenate([extras[name] for _, extras in clips])
        np.testing.assert_array_equal(signal, np.array([of(1, i) for i in range(30)], np.float32))
    assert len(made.clips[source("test", 0, 0, view)]) == 1


def test_signals_follow_the_stride(root: Path, tmp_path: Path) -> None:
    made = bair(root, tmp_path, num_frames=3, frame_stride=2, max_clips_per_video=1, clip_stride=1)
    frames, extras = made.clips[source("train", 0)][0]
    np.testing.assert_array_equal(frames, np.stack([making_bair.frame(0, i, "image_aux1") for i in (0, 2, 4)]))
    np.testing.assert_array_equal(extras["actions"][:, 1], [0, 2, 4])


def test_a_flipped_bit_in_a_picture_is_found_by_the_checksum(root: Path, tmp_path: Path) -> None:
    flip(root / NAME.format("train"), HALF // 2)
    made = bair(root, tmp_path)
    assert made.rejects == {source("train", 0): ("shards", "corrupt")}
    assert "checksum" in made.details[source("train", 0)]
    assert len(made.clips[source("train", 1, HALF)]) == 6
    assert source("test", 0) in made.clips


def test_a_flipped_bit_in_a_name_or_a_size_is_a_reject(root: Path, tmp_path: Path) -> None:
    flip(root / NAME.format("train"), 13)  # the size of all features
    made = bair(root, tmp_path)
    assert made.rejects == {source("train", 0): ("clips", "corrupt")}
    assert len(made.clips) == 2


def test_a_cut_file_loses_its_last_record(root: Path, tmp_path: Path) -> None:
    os.truncate(root / NAME.format("train"), len(NATIVE) - 1)
    made = bair(root, tmp_path)
    assert made.rejects == {source("train", 1, HALF): ("clips", "missing_frames")}
    assert source("train", 0) in made.clips


def test_a_file_that_is_cut_after_ingest(root: Path, tmp_path: Path) -> None:
    made = make(
        root,
        tmp_path / "out",
        damage=lambda: os.truncate(root / NAME.format("train"), len(NATIVE) - 1),
        layout="bair",
        resolution=64,
        num_frames=5,
    )
    assert made.rejects == {source("train", 1, HALF): ("shards", "missing_frames")}
    assert source("train", 0) in made.clips


def test_a_damaged_length_hides_what_follows(root: Path, tmp_path: Path) -> None:
    flip(root / NAME.format("train"), HALF + 2)
    made = bair(root, tmp_path)
    assert made.rejects == {source("train", 1, HALF): ("clips", "corrupt")}
    assert "nothing after it" in made.details[source("train", 1, HALF)]


def test_an_empty_file(root: Path, tmp_path: Path) -> None:
    (root / NAME.format("train")).write_bytes(b"")
    assert bair(root, tmp_path).rejects == {source("train", 0): ("clips", "empty")}


def test_a_missing_frame_and_a_frame_of_another_size(root: Path, tmp_path: Path) -> None:
    missing, jpeg = making_bair.features(0, 6), making_bair.features(1, 6)
    del missing["3/image_aux1/encoded"]
    jpeg["3/image_aux1/encoded"] = making_bair.raw(b"\xff\xd8\xff\xe0" * 100)
    first, second = (making_bair.framed(making_bair.example(features)) for features in (missing, jpeg))
    third = making_bair.framed(making_bair.example(making_bair.features(2, 6)))
    (root / NAME.format("train")).write_bytes(first + second + third)
    made = bair(root, tmp_path)
    assert made.rejects == {
        source("train", 0): ("clips", "missing_frames"),
        source("train", 1, len(first)): ("clips", "corrupt"),
    }
    assert source("train", 2, len(first) + len(second)) in made.clips


def test_records_without_signals_have_none(root: Path, tmp_path: Path) -> None:
    plain = {name: value for name, value in making_bair.features(0, 5).items() if "image" in name}
    (root / NAME.format("train")).write_bytes(making_bair.framed(making_bair.example(plain)))
    ((_, extras),) = bair(root, tmp_path).clips[source("train", 0)]
    assert extras == {}


def test_a_link_that_leaves_the_root_and_nothing_at_all(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.tfrecords"
    outside.write_bytes(NATIVE)
    (root / "softmotion30_44k/test/link.tfrecords").symlink_to(outside)
    videos = list_bair(root, DataConfig(root=str(root), layout="bair"))
    assert [v.reject and v.reject[0] for v in videos if "link" in v.source] == ["unsafe_path"]
    with pytest.raises(UsageError) as caught:
        list_bair(tmp_path / "nowhere", DataConfig(root=str(root), layout="bair"))
    assert "softmotion30_44k" in caught.value.hint


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
