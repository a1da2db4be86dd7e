"""Videos that are rows of arrays go through the jobs like files: counted, rejected, packed with their signals."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from schemas.config import Recipe
from tests.datasets import making_bair
from tests.pipelines.making import recipe
from vtok import artefacts
from vtok.datasets.hdf5_write import write_hdf5
from vtok.shards.codec import decode_clip, decode_extras
from vtok.shards.reader import read_samples

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]


def rejects(settings: Recipe, stage: str) -> dict[str, str]:
    rows = artefacts.load_rejects(settings.folder(stage)).to_pylist()
    return {row["source"]: row["reason"] for row in rows}


def check_counts(settings: Recipe, files: int) -> None:
    clips = artefacts.load(settings.folder("clips"), "clips").counts
    shards = artefacts.load(settings.folder("shards"), "shards").counts
    assert clips["files"] == files == clips["files_with_clips"] + clips["rejects"]
    assert shards["planned"] == clips["clips"] == shards["clips"] + shards["rejects"]


def test_bair(tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(making_bair.FIXTURE.read_bytes()))
    name = "softmotion30_44k/{}/traj_0_to_1.tfrecords"
    for split in ("train", "test"):
        path = tmp_path / "data" / name.format(split)
        path.parent.mkdir(parents=True)
        if split == "test":
            data[len(data) // 4] ^= 4  # a pixel of the first record
        path.write_bytes(data)
    changes = {"data__layout": "bair", "data__resolution": 64, "data__num_frames": 10, "data__source_fps": 10}
    settings = recipe(tmp_path / "data", tmp_path / "run", **changes)
    ingest(settings)
    shard(settings)
    check_counts(settings, 4)
    assert rejects(settings, "clips") == {}
    assert rejects(settings, "shards") == {f"{name.format('test')}#0@0:image_aux1": "corrupt"}
    found = {}
    for row in artefacts.load_index(settings.folder("shards")).to_pylist():
        for sample in read_samples(settings.folder("shards") / row["path"]):
            found[row["split"], decode_clip(sample)[0, 0, 0, 1], decode_extras(sample)["actions"][0, 1]] = sample
    assert {key[0]: sum(other[0] == key[0] for other in found) for key in found} == {"train": 6, "test": 3}
    frames = decode_clip(found["train", 67, 10.0])
    np.testing.assert_array_equal(frames, [making_bair.frame(1, i, "image_aux1") for i in range(10, 20)])


def test_hdf5_there_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "data" / "videos.hdf5"
    path.parent.mkdir()
    data = {split: rng.integers(0, 256, (12, 16, 16, 3), np.uint8) for split in ("train", "test")}
    with h5py.File(path, "w") as file:
        for split, frames in data.items():
            file[f"{split}_data"] = frames
            file[f"{split}_idx"] = [0, 3, 8]  # the first video is too short for a clip, the last exactly one
            file[f"{split}_labels"] = [0, 1, 2]
    settings = recipe(tmp_path / "data", tmp_path / "run", data__layout="hdf5")
    ingest(settings)
    shard(settings)
    check_counts(settings, 6)
    assert rejects(settings, "clips") == {f"videos.hdf5#{split}/0": "too_short" for split in data}
    out = tmp_path / "out" / "again.h5"
    assert write_hdf5(settings.folder("shards"), out, form="tats") == {"test": 2, "train": 2}
    with h5py.File(out) as file:
        for split, frames in data.items():
            assert list(file[f"{split}_idx"]) == [0, 4, 8]
            written = {int(file[f"{split}_labels"][i]): file[f"{split}_data"][4 * i : 4 * i + 4] for i in range(2)}
            assert written.keys() == {1, 2}
            np.testing.assert_array_equal(written[1], frames[3:7])
            np.testing.assert_array_equal(written[2], frames[8:12])
