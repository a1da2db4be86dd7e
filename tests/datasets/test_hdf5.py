"""HDF5 files in VideoGPT's and TATS's forms, read and written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from schemas.config.data import DataConfig
from schemas.errors import IntegrityError, UsageError
from schemas.paths import as_path
from tests.datasets.decoding import Made, make
from tests.s3_server import BUCKET, Server
from vtok import artefacts
from vtok.artefacts import Part
from vtok.datasets.hdf5 import list_hdf5
from vtok.datasets.hdf5_write import write_hdf5
from vtok.files import write_bytes

LENGTHS = [6, 4, 9]  # 4: exactly one clip, at which the originals fail
SIZE = 16


def frames_of(split: str, number: int, length: int) -> np.ndarray:
    """uint8 (length, 16, 16, 3); every frame tells where it is from."""
    frames = np.zeros((length, SIZE, SIZE, 3), np.uint8)
    frames[..., 0] = 100 * (split == "test") + 10 * number
    frames[..., 1] = np.arange(length)[:, None, None] * 20
    frames[:, :, SIZE // 2 :, 2] = 255
    return frames


def write(path: Path, form: str, splits: tuple[str, ...] = ("train", "test"), **more: Any) -> Path:
    """As VideoGPT's script for BAIR writes it, or with TATS's additional entry."""
    starts = np.cumsum([0, *LENGTHS])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for split in splits:
            data = np.concatenate([frames_of(split, i, length) for i, length in enumerate(LENGTHS)])
            file.create_dataset(f"{split}_data", data=data, **more)
            file.create_dataset(f"{split}_idx", data=starts if form == "tats" else starts[:-1])
    return path


def hdf5(root: Path, tmp_path: Path, **data: Any) -> Made:
    return make(root, tmp_path / "out", **{"layout": "hdf5", "resolution": SIZE, "num_frames": 4, **data})


@pytest.mark.parametrize("form", ["videogpt", "tats"])
@pytest.mark.parametrize("more", [{}, {"chunks": (7, 8, 16, 3), "compression": "gzip"}])
def test_every_video_counts_in_both_forms(form: str, more: dict[str, Any], tmp_path: Path) -> None:
    root = write(tmp_path / "data/bair.hdf5", form, **more).parent
    made = hdf5(root, tmp_path)
    assert made.rejects == {}
    assert {source: len(clips) for source, clips in made.clips.items()} == {
        f"bair.hdf5#{split}/{i}": count for split in ("train", "test") for i, count in enumerate([1, 1, 2])
    }
    last = np.concatenate([frames for frames, _ in made.clips["bair.hdf5#test/2"]])
    np.testing.assert_array_equal(last, frames_of("test", 2, 9)[:8])
    assert {(row["split"], row["medium"], row["item"]) for row in made.rows if row["source"].endswith("test/1")} == {
        ("test", "hdf5", "test/1")
    }


def test_labels_and_actions(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.h5", "videogpt")
    actions = np.arange(sum(LENGTHS) * 4, dtype=np.float32).reshape(-1, 4)
    with h5py.File(path, "a") as file:
        file["train_labels"] = np.array([1, 0, 1])
        file["train_labels"].attrs["classes"] = ["down", "up"]
        file["train_actions"] = actions
    videos = list_hdf5(path.parent, DataConfig(root=str(path.parent), layout="hdf5"))
    assert [(v.split, v.label, v.class_name) for v in videos] == [
        ("train", 1, "up"), ("train", 0, "down"), ("train", 1, "up"), *[("test", None, None)] * 3,
    ]  # fmt: skip
    made = hdf5(path.parent, tmp_path)
    np.testing.assert_array_equal(made.clips["a.h5#train/2"][1][1]["actions"], actions[14:18])
    assert made.clips["a.h5#test/0"][0][1] == {}


def test_a_video_whose_start_is_wrong_leaves_its_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.h5", "tats")
    with h5py.File(path, "a") as file:
        file["train_idx"][1] = 15  # after the next start
    made = hdf5(path.parent, tmp_path)
    assert made.rejects == {"a.h5#train/1": ("clips", "corrupt")}
    assert made.details["a.h5#train/1"] == "the video would be rows 15 to 10 of 19"
    assert {"a.h5#train/0", "a.h5#train/2", "a.h5#test/1"} <= made.clips.keys()


def test_a_damaged_chunk_rejects_the_video_in_it(tmp_path: Path) -> None:
    root = write(tmp_path / "data/a.h5", "tats", chunks=(1, SIZE, SIZE, 3), compression="gzip", shuffle=True).parent

    def damage() -> None:
        with h5py.File(root / "a.h5") as file:
            place = file["train_data"].id.get_chunk_info_by_coord((7, 0, 0, 0))
        data = bytearray((root / "a.h5").read_bytes())
        data[place.byte_offset : place.byte_offset + place.size] = b"\x55" * place.size
        (root / "a.h5").write_bytes(data)

    made = make(root, tmp_path / "out", damage=damage, layout="hdf5", resolution=SIZE, num_frames=4)
    assert made.rejects == {"a.h5#train/1": ("shards", "corrupt")}
    assert {"a.h5#train/0", "a.h5#train/2"} <= made.clips.keys()


def test_a_file_that_is_replaced_after_ingest(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.h5", "tats")

    def damage() -> None:
        with h5py.File(path, "a") as file:
            del file["train_idx"]
            file["train_idx"] = [0, 5, 10, 19]

    made = make(path.parent, tmp_path / "out", damage=damage, layout="hdf5", resolution=SIZE, num_frames=4)
    assert {made.rejects[f"a.h5#train/{i}"] for i in (0, 1)} == {("shards", "changed")}
    assert "a.h5#train/2" in made.clips


def test_nothing_is_read_from_other_files(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.h5", "tats")
    (tmp_path / "raw").write_bytes(b"\1" * (8 * SIZE * SIZE * 3))
    root = tmp_path / "data"
    root.mkdir()

    def split(name: str, add: Any) -> None:
        with h5py.File(root / name, "w") as file:
            add(file)
            file["train_idx"] = [0, 4]

    split("external.h5", lambda file: file.__setitem__("train_data", h5py.ExternalLink(str(secret), "train_data")))

    def soft(file: h5py.File) -> None:
        file["way/out"] = h5py.ExternalLink(str(secret), "/")
        file["train_data"] = h5py.SoftLink("way/../way/out/train_data")

    split("soft.h5", soft)

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((sum(LENGTHS), SIZE, SIZE, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(secret), "train_data", (sum(LENGTHS), SIZE, SIZE, 3))
        file.create_virtual_dataset("train_data", layout)

    split("virtual.h5", virtual)
    outside = [(str(tmp_path / "raw"), 0, 8 * SIZE * SIZE * 3)]
    split("storage.h5", lambda file: file.create_dataset("train_data", (8, SIZE, SIZE, 3), np.uint8, external=outside))

    def loop(file: h5py.File) -> None:
        file["a"] = h5py.SoftLink("/train_data")
        file["train_data"] = h5py.SoftLink("/a")

    split("loop.h5", loop)

    def within(file: h5py.File) -> None:
        file["group/real"] = frames_of("train", 0, 8)
        file["train_data"] = h5py.SoftLink("/group/./real")

    split("within.h5", within)
    (root / "link.h5").symlink_to(secret)
    made = hdf5(root, tmp_path)
    kinds = ("external", "soft", "virtual", "storage", "loop")
    assert made.rejects == {
        **{f"{kind}.h5#train": ("clips", "unsafe_path") for kind in kinds},
        "link.h5": ("clips", "unsafe_path"),
    }
    assert set(made.clips) == {"within.h5#train/0", "within.h5#train/1"}


def test_files_and_arrays_that_are_none(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "good.h5", "tats", ("train",))
    write(root / "sub/cut.hdf5", "tats")
    os.truncate(root / "sub/cut.hdf5", 5000)
    (root / "empty.h5").touch()
    (root / "text.h5").write_text("no HDF5")

    def one(name: str, **arrays: Any) -> None:
        with h5py.File(root / name, "w") as file:
            for key, value in arrays.items():
                file[key] = value

    good = frames_of("train", 0, 6)
    one("float.h5", train_data=good.astype(np.float32), train_idx=[0])
    one("grey.h5", train_data=good[..., 0], train_idx=[0])
    one("alone.h5", train_data=good)
    one("other.h5", frames=good)
    one("labels.h5", train_data=good, train_idx=[0], train_labels=[0, 1])
    one("far.h5", train_data=good, train_idx=[0], train_labels=[1 << 40])
    one("negative.h5", train_data=good, train_idx=[-2, 6])
    one("actions.h5", train_data=good, train_idx=[0], train_actions=[[1.0]])
    one("half.h5", train_data=good[..., 0], train_idx=[0], test_data=good, test_idx=[0])
    made = hdf5(root, tmp_path)
    assert {source: reason for source, (_, reason) in made.rejects.items()} == {
        "sub/cut.hdf5": "unreadable",
        "empty.h5": "empty",
        "text.h5": "unreadable",
        "float.h5#train": "corrupt",
        "grey.h5#train": "corrupt",
        "alone.h5#train": "corrupt",
        "other.h5": "no_video",
        "labels.h5#train": "corrupt",
        "far.h5#train": "corrupt",
        "negative.h5#train/0": "corrupt",
        "actions.h5#train/0": "corrupt",
        "half.h5#train": "corrupt",
    }
    assert set(made.clips) == {*(f"good.h5#train/{i}" for i in range(3)), "half.h5#test/0"}
    assert not any(str(tmp_path) in detail for detail in made.details.values())


def test_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.h5", "tats")
    for root in (path, tmp_path / "nowhere"):
        with pytest.raises(UsageError) as caught:
            list_hdf5(root, DataConfig(root=str(root), layout="hdf5"))
        assert caught.value.hint


def finished_shards(tmp_path: Path, form: str = "tats", **changes: Any) -> Path:
    """Shards of a small file with labels and actions, sealed."""
    path = write(tmp_path / "source/a.h5", form)
    with h5py.File(path, "a") as file:
        for split in ("train", "test"):
            file[f"{split}_labels"] = np.array([1, 0, 1])
            file[f"{split}_labels"].attrs["classes"] = ["down", "up"]
            file[f"{split}_actions"] = np.arange(sum(LENGTHS) * 2, dtype=np.float32).reshape(-1, 2)
    make(path.parent, tmp_path / "out", layout="hdf5", resolution=SIZE, num_frames=4, **changes)
    folder = tmp_path / "sealed"
    tars = sorted((tmp_path / "out" / "shards").glob("*.tar"))
    names = [tar.name for tar in tars]
    plan = artefacts.make_plan("shards", {}, {}, names)
    artefacts.begin(folder, plan)
    for tar in tars:
        shutil.copy(tar, folder / tar.name)
    parts = [
        Part(name, name.split("-")[0], 4, (folder / name).stat().st_size, sha256(folder / name), []) for name in names
    ]
    artefacts.seal(folder, plan, parts, counts={"clips": 8}, facts={"classes": ["down", "up"]})
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["videogpt", "tats"])
def test_what_is_written_is_what_the_originals_read(form: Any, tmp_path: Path) -> None:
    shards = finished_shards(tmp_path)
    out = tmp_path / "written" / "clips.h5"
    assert write_hdf5(shards, out, form=form) == {"test": 4, "train": 4}
    with h5py.File(out) as file:
        data, starts = file["train_data"], file["train_idx"][:]
        if form == "tats":  # its data set takes every start but the last
            assert starts[-1] == len(data)
            starts, ends = starts[:-1], starts[1:]
        else:  # VideoGPT ends the last video with the data
            ends = [*starts[1:], len(data)]
        assert (data.dtype, data.shape, list(starts)) == (np.uint8, (16, SIZE, SIZE, 3), [0, 4, 8, 12])
        labels, actions = file["train_labels"][:], file["train_actions"][:]
        clips = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    assert [(int(clip[0, 0, 0, 0]) // 10) % 2 ^ 1 for clip in clips] == list(labels)
    again = make(out.parent, tmp_path / "again", layout="hdf5", resolution=SIZE, num_frames=4)
    before = {(f[0, 0, 0, 0], f[0, 0, 0, 1]): (f, e["actions"]) for f, e in read_all(shards)}
    for i, clip in enumerate(clips):
        frames, extras = again.clips[f"clips.h5#train/{i}"][0]
        np.testing.assert_array_equal(frames, clip)
        np.testing.assert_array_equal(frames, before[clip[0, 0, 0, 0], clip[0, 0, 0, 1]][0])
        np.testing.assert_array_equal(extras["actions"], actions[4 * i : 4 * i + 4])
        np.testing.assert_array_equal(extras["actions"], before[clip[0, 0, 0, 0], clip[0, 0, 0, 1]][1])
    assert {row["class_name"] for row in again.rows} == {"down", "up"}
    first = sha256(out)
    write_hdf5(shards, out, form=form)
    assert sha256(out) == first
    assert [path.name for path in out.parent.iterdir()] == ["clips.h5"]


def read_all(shards: Path) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    from vtok.shards.codec import decode_clip, decode_extras
    from vtok.shards.reader import read_samples

    tars = sorted(shards.glob("*.tar"))
    return [(decode_clip(sample), decode_extras(sample)) for tar in tars for sample in read_samples(tar)]


def test_a_damaged_shard_leaves_no_file(tmp_path: Path) -> None:
    shards = finished_shards(tmp_path)
    tar = shards / "train-00000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    with pytest.raises(IntegrityError):
        write_hdf5(shards, tmp_path / "written" / "clips.h5")
    assert list((tmp_path / "written").iterdir()) == []
    with pytest.raises(UsageError):
        write_hdf5(shards, tmp_path / "clips.mp4")


def test_shards_and_file_in_an_object_store(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = finished_shards(tmp_path)
    folder = as_path(f"s3://{BUCKET}/hdf5-{tmp_path.name}")
    for path in shards.iterdir():
        write_bytes(folder / "shards" / path.name, path.read_bytes())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert write_hdf5(folder / "shards", folder / "clips.h5") == {"test": 4, "train": 4}
    write_hdf5(shards, tmp_path / "clips.h5")
    assert (folder / "clips.h5").read_bytes() == (tmp_path / "clips.h5").read_bytes()
    write_bytes(folder / "shards" / "train-00000.tar", b"damaged")
    with pytest.raises(IntegrityError):
        write_hdf5(folder / "shards", folder / "other.h5")
    assert not (folder / "other.h5").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_captions_and_semantic_maps_beside_the_frames(tmp_path: Path) -> None:
    root = write(tmp_path / "data/rgb.h5", "tats", ("train",)).parent
    maps = np.arange(sum(LENGTHS), dtype=np.uint8)[:, None, None] * np.ones((1, SIZE, SIZE), np.uint8)
    with h5py.File(root / "smap.h5", "w") as file:
        file.create_dataset("train_data", data=maps)
    (root / "train_text_description.txt").write_text("a dog runs\tit runs\n\nthe sea\n")
    config = DataConfig(root=str(root), layout="hdf5", semantic_maps="smap.h5")
    videos = list_hdf5(root, config)
    assert [video.caption for video in videos] == ["a dog runs", None, "the sea"]
    assert [video.companions for video in videos] == [
        {"smap": "smap.h5#train_data[0:6]"},
        {"smap": "smap.h5#train_data[6:10]"},
        {"smap": "smap.h5#train_data[10:19]"},
    ]
    made = hdf5(root, tmp_path, semantic_maps="smap.h5")
    assert made.rejects == {}
    _, extras = made.clips["rgb.h5#train/2"][-1]
    assert extras["smap"].shape == (4, SIZE, SIZE)
    assert extras["smap"][:, 0, 0].tolist() == [14, 15, 16, 17]
    (root / "train_text_description.txt").write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="has 2 lines, there are 3 videos"):
        list_hdf5(root, config)
    with pytest.raises(UsageError, match="no such file of semantic maps"):
        list_hdf5(root, DataConfig(root=str(root), layout="hdf5", semantic_maps="gone.h5"))


@pytest.mark.parametrize("more", [{}, {"compression": "gzip"}, {"fillvalue": 9}])
def test_frames_that_were_never_written_are_no_black_clips(more: dict[str, Any], tmp_path: Path) -> None:
    """As an interrupted conversion leaves them: the array has its full shape, some chunks were never written."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("train_data", (32, SIZE, SIZE, 3), np.uint8, chunks=(4, SIZE // 2, SIZE, 3), **more)
        data[:12] = 50
        data[16:20] = 60
        data[20:24, : SIZE // 2] = 70  # half a frame
        file["train_idx"] = [0, 8, 24]
    made = make(tmp_path, tmp_path / "out", layout="hdf5", resolution=SIZE, num_frames=4)
    greys = {source: [int(frames[0, 0, 0, 0]) for frames, _ in clips] for source, clips in made.clips.items()}
    assert greys == {"a.h5#train/0": [50, 50], "a.h5#train/1": [50, 60]}
    assert made.rejects == {"a.h5#train/1": ("shards", "missing_frames"), "a.h5#train/2": ("clips", "missing_frames")}
    assert made.details["a.h5#train/2"] == "none of the video's frames was ever written to the file"
    assert "never written" in made.details["a.h5#train/1"]


def test_an_array_in_one_piece_that_was_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train_data", (8, SIZE, SIZE, 3), np.uint8)
        file["train_idx"] = [0]
        file["test_data"], file["test_idx"] = np.ones((8, SIZE, SIZE, 3), np.uint8), [0]
    made = make(tmp_path, tmp_path / "out", layout="hdf5", resolution=SIZE, num_frames=4)
    assert made.rejects == {"a.h5#train/0": ("clips", "missing_frames")} and list(made.clips) == ["a.h5#test/0"]
