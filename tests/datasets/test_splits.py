"""Every usual spelling of a split, at the top or below other folders, in every layout; trees with two readings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from schemas.errors import UsageError
from tests.datasets import making_bair
from tests.datasets.reading import listed, rejects
from tests.datasets.test_frames import save
from tests.datasets.test_tars import write_tar
from vtok.datasets import LAYOUTS
from vtok.datasets.splits import split_word, splits_in

SPELLINGS = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAIN", "TEST"),
    ("training", "testing"),
    ("Training_Set", "Test-Set"),
    ("train", "valid"),
    ("train", "dev"),
    ("TRAIN", "VAL"),
    ("train2017", "val2017"),
    ("train_videos", "eval"),
    ("trainset", "testset"),
]
"""Names of two folders; the first always means train."""

MEANT = {"valid": "val", "dev": "val", "VAL": "val", "val2017": "val", "eval": "val"}
"""What the second means where it is not test."""


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def _folder(root: Path, name: str) -> None:
    _file(root / name / "cat" / "1.mp4")


def _frames(root: Path, name: str) -> None:
    save(root / name / "cat" / "one" / "1.png", 0)


def _sky(root: Path, name: str) -> None:
    save(root / "sky_timelapse" / f"sky_{name}" / "id" / "1" / "id_frames_00000001.jpg", 0)


def _bair(root: Path, name: str) -> None:
    path = _file(root / "softmotion30_44k" / name / "traj_0.tfrecords")
    path.write_bytes(making_bair.framed(making_bair.example(making_bair.features(0, 2))))


def _tar_folder(root: Path, name: str) -> None:
    write_tar(root / name / "0.tar", [("1.mp4", b".")])


def _tar_name(root: Path, name: str) -> None:
    write_tar(root / f"shard_{name}_00000.tar", [("1.mp4", b".")])


def _tar_inside(root: Path, name: str) -> None:
    write_tar(root / f"{len(list(root.rglob('*.tar')))}.tar", [(f"{name}/cat/1.mp4", b".")])


def _stft(root: Path, name: str) -> None:
    _file(root / "video" / name / "1.mp4")
    _file(root / "stft" / name / "1.pickle")


def _hdf5(root: Path, name: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "a.h5", "a") as file:
        file[f"{name}_data"] = np.ones((4, 8, 8, 3), np.uint8)
        file[f"{name}_idx"] = [0]


def _frame_lists(root: Path, name: str) -> None:
    save(root / f"{name}_1.png", 0)
    (root / f"{name}.txt").write_text(f"{name}_1.png\n")


def _kinetics(root: Path, name: str) -> None:
    number = len(list(root.glob("*.csv")))
    _file(root / f"id{number}_000001_000011.mp4")
    row = f"label,youtube_id,time_start,time_end\nzumba,id{number},1,11\n"
    (root / f"kinetics_{name}.csv").write_text(row)


def _kinetics_column(root: Path, name: str) -> None:
    _file(root / name / f"{name}_000001_000011.mp4")
    rows = root / "all.csv"
    before = rows.read_text() if rows.exists() else "label,youtube_id,time_start,time_end,split\n"
    rows.write_text(f"{before}zumba,{name},1,11,{name}\n")


def _mugen(root: Path, name: str) -> None:
    _file(root / f"{name}_game.mp4")
    entry = {"video": {"json_file": f"{name}_game.json"}, "annotations": []}
    (root / f"{name}.json").write_text(json.dumps({"data": [entry]}))


def _taichi(root: Path, name: str) -> None:
    _file(root / name / f"{name}#000000#000008.mp4")


def _taichi_column(root: Path, name: str) -> None:
    _file(root / f"{name}.mp4")
    rows = root / "taichi-metadata.csv"
    before = rows.read_text() if rows.exists() else "video_id,start,end,bbox,fps,width,height,partition\n"
    rows.write_text(f"{before}{name},0,8,1-2-30-40,25,64,64,{name}\n")


MAKERS: list[tuple[str, Callable[[Path, str], None]]] = [
    ("folder", _folder),
    ("frames", _frames),
    ("sky", _sky),
    ("bair", _bair),
    ("tars", _tar_folder),
    ("tars", _tar_name),
    ("tars", _tar_inside),
    ("tats_stft", _stft),
    ("hdf5", _hdf5),
    ("frame_lists", _frame_lists),
    ("kinetics", _kinetics),
    ("kinetics", _kinetics_column),
    ("mugen", _mugen),
    ("taichi", _taichi),
    ("taichi", _taichi_column),
]
BY_FOLDER = [(layout, make) for layout, make in MAKERS if make not in (_tar_name, _frame_lists, _hdf5, _tar_inside)]


@pytest.mark.parametrize(("layout", "make"), MAKERS)
@pytest.mark.parametrize("names", SPELLINGS, ids="/".join)
def test_every_spelling_in_every_layout(
    names: tuple[str, str], layout: str, make: Callable[[Path, str], None], tmp_path: Path
) -> None:
    for name in names:
        make(tmp_path, name)
    found = listed(tmp_path, layout)
    assert rejects(found) == {}
    assert sorted(video.split for video in found.values()) == sorted(["train", MEANT.get(names[1], "test")])
    second = next(video for video in found.values() if video.split != "train")
    assert names[1] in second.source or second.path.parent == tmp_path
    assert not {split_word(video.class_name or "") for video in found.values()} - {None}


@pytest.mark.parametrize(("layout", "make"), BY_FOLDER)
def test_one_level_down(layout: str, make: Callable[[Path, str], None], tmp_path: Path) -> None:
    """MyData/Train/... and MyData/Test/..., where the split is a folder."""
    if layout in ("kinetics", "mugen") or make is _taichi_column:
        pytest.skip("the lists lie in the root, and say the splits")
    for name in ("Train", "Test"):
        make(tmp_path / "MyData", name)
    found = listed(tmp_path, layout)
    assert rejects(found) == {}
    assert {"Test" in video.source: video.split for video in found.values()} == {False: "train", True: "test"}


def test_all_layouts_are_in_the_table() -> None:
    """ucf101 and tgif name their splits in lists of fixed names: tests/datasets/test_listed.py."""
    assert {layout for layout, _ in MAKERS} == set(LAYOUTS) - {"ucf101", "tgif"}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["MyData/train/cat/1.mp4", "MyData/test/dog/2.mp4"], [("train", "cat"), ("test", "dog")]),
        (["a/train/1.mp4", "a/test/2.mp4"], [("train", None), ("test", None)]),
        (
            ["cat/train/1.mp4", "cat/test/2.mp4", "dog/train/3.mp4"],
            [("train", "cat"), ("test", "cat"), ("train", "dog")],
        ),
        (["one/train/1.mp4", "two/test/2.mp4"], [("train", None), ("test", None)]),
        (["UCF_train/cat/1.mp4", "UCF_test/cat/2.mp4"], [("train", "cat"), ("test", "cat")]),
        (["train/train/1.mp4", "test/test/2.mp4"], [("train", None), ("test", None)]),
        (["train/training dog/1.mp4", "test/cat/2.mp4"], [("train", "training dog"), ("test", "cat")]),
        (["valid/1.mp4", "dev/2.mp4", "train/3.mp4"], [("val", None), ("val", None), ("train", None)]),
        (["train/cat/deep/1.mp4", "test/cat/deep/2.mp4"], [("train", "deep"), ("test", "deep")]),
    ],
)
def test_splits_and_classes_of_a_folder(names: list[str], wanted: list[tuple[str, str | None]], tmp_path: Path) -> None:
    for name in names:
        _file(tmp_path / name)
    found = listed(tmp_path, "folder")
    assert [(found[name].split, found[name].class_name) for name in names] == wanted
    assert rejects(found) == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/1.mp4", "car/2.mp4", "bus/3.mp4"], "may be a split or a class"),
        (["train/1.mp4", "2.mp4"], "may be a split or a class"),
        (["cat/test/1.mp4", "cat/front/2.mp4"], "may be a split or a class"),
        (["train/val/1.mp4", "train/cat/2.mp4"], "two splits: train and val"),
        (["a/Train/b/TEST/1.mp4"], "two splits: Train and TEST"),
    ],
)
def test_a_tree_with_two_readings_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        _file(tmp_path / name)
    with pytest.raises(UsageError, match=message) as caught:
        listed(tmp_path, "folder")
    assert caught.value.at.startswith(str(tmp_path)) and caught.value.hint


def test_tars_with_two_readings_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "one" / "train_test.tar", [("1.mp4", b".")])
    write_tar(tmp_path / "two" / "train.tar", [("test/1.mp4", b".")])
    write_tar(tmp_path / "three" / "a.tar", [("train/1.mp4", b"."), ("2.mp4", b".")])
    for name, message in (("one", "says two splits"), ("two", "two splits"), ("three", "may be a split or a class")):
        with pytest.raises(UsageError, match=message):
            listed(tmp_path / name, "tars")


def test_videos_beside_the_splits_are_rejects_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/1.mp4", "test/2.mp4", "holdout/3.mp4", "4.mp4", "my_training/5.mp4"):
        _file(tmp_path / name)
    assert rejects(listed(tmp_path, "folder")) == {
        "holdout/3.mp4": "not_in_split",
        "4.mp4": "not_in_split",
        "my_training/5.mp4": "not_in_split",
    }
    said = capsys.readouterr().err
    assert "in no split folder are rejected: ., holdout, my_training" in said
    assert "hold a split's word, and are read as no split: my_training" in said


def test_what_is_unusual_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/train/1.mp4", "a/val/2.mp4", "a/dev/3.mp4"):
        _file(tmp_path / "one" / name)
    listed(tmp_path / "one", "folder")
    assert "the folders dev, val are all read as the split val" in capsys.readouterr().err
    _file(tmp_path / "two" / "test" / "1.mp4")
    listed(tmp_path / "two", "folder")
    assert "none to train on" in capsys.readouterr().err
    for name in ("train/cat/1.mp4", "test/2.mp4"):
        _file(tmp_path / "three" / name)
    listed(tmp_path / "three", "folder")
    assert "1 video of 2 in no class folder" in capsys.readouterr().err


def test_words() -> None:
    for name in ("training dog", "trainer", "latest", "contest", "values", "testify", "set", "2017", "", "train_test"):
        assert split_word(name) is None, name
    for name in ("train", "TRAIN", "Train Set", "train (1)", "01_train", "TrainVal", "trainset", "tRAIN"):
        assert split_word(name) == "train", name
    assert splits_in("ucf-train-00001") == {"train"} and splits_in("kinetics_Val") == {"val"}
    assert splits_in("MyTestShards-3") == {"test"} and splits_in("latest-0") == set()
    assert splits_in("train_test") == {"train", "test"}
