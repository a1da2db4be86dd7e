"""Folders of images (TATS's --image_folder) and lists of images (MeBT)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from tests.datasets.decoding import Made, make
from vtok.datasets.base import SourceVideo
from vtok.datasets.frames import list_frame_lists, list_frames

SIZE = 16


def save(path: Path, value: int, size: int = SIZE) -> Path:
    """A picture of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)
    return path


def video(folder: Path, count: int, pattern: str = "{:d}.png", first: int = 1, value: int = 0) -> None:
    """Images whose grey is `value` plus their number."""
    for number in range(first, first + count):
        save(folder / pattern.format(number), value + number)


def greys(made: Made, source: str) -> list[int]:
    return [int(frame[0, 0, 0]) for frames, _ in made.clips[source] for frame in frames]


def frames(root: Path, tmp_path: Path, **data: Any) -> Made:
    return make(root, tmp_path / "out", **{"layout": "frames", "resolution": SIZE, "num_frames": 4, **data})


def listed(root: Path, **data: Any) -> dict[str, SourceVideo]:
    videos = list_frames(root, DataConfig(root=str(root), layout="frames", **data))
    assert {video.medium for video in videos} == {"frames"}
    return {video.source: video for video in videos}


def test_every_folder_with_images_is_a_video_the_last_one_too(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root / "train/cat/one", 12)  # 1.png .. 12.png: by name, 10 comes before 2
    video(root / "train/cat/one/deeper", 4, "x_{:04d}.jpg", value=100)
    video(root / "test/dog/two", 8, "two_{:05d}.png", first=95)
    (root / "test/dog/two/notes.txt").write_text("no frame")
    made = frames(root, tmp_path)
    assert made.rejects == {}
    assert greys(made, "train/cat/one") == list(range(1, 13))
    assert greys(made, "test/dog/two") == list(range(95, 103))
    assert len(made.clips["train/cat/one/deeper"]) == 1
    assert {(row["source"], row["split"], row["class_name"], row["codec"]) for row in made.rows} == {
        ("train/cat/one", "train", "cat", "png"),
        ("train/cat/one/deeper", "train", "one", "jpg"),
        ("test/dog/two", "test", "dog", "png"),
    }


def test_splits_and_classes(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/dog/1", "validation/ape/1", "test/dog/1"):
        save(tmp_path / "classes" / name / "1.png", 0)
    found = {name: (v.split, v.label, v.class_name) for name, v in listed(tmp_path / "classes").items()}
    assert found == {
        "train/cat/1": ("train", 1, "cat"),
        "train/dog/1": ("train", 2, "dog"),
        "validation/ape/1": ("val", 0, "ape"),
        "test/dog/1": ("test", 2, "dog"),
    }
    for name in ("train/1", "train/cat/2", "test"):  # one video without a class: nobody has one
        save(tmp_path / "mixed" / name / "1.png", 0)
    assert {name: (v.split, v.label) for name, v in listed(tmp_path / "mixed").items()} == {
        "train/1": ("train", None),
        "train/cat/2": ("train", None),
        "test": ("test", None),
    }


def test_without_splits_a_hash_decides_as_for_videos(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / f"v{i}" / "1.png", 0)
    before = {name: v.split for name, v in listed(tmp_path, test_fraction=0.3).items()}
    assert set(before.values()) == {"train", "test"}
    (tmp_path / "v3/1.png").unlink()
    after = {name: v.split for name, v in listed(tmp_path, test_fraction=0.3).items()}
    assert after == {name: split for name, split in before.items() if name != "v3"}


def test_images_in_the_root_are_a_video(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root, 4)
    assert greys(frames(root, tmp_path), ".") == [1, 2, 3, 4]


def test_damaged_images_cost_their_clips_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "b", "c", "d", "e"):
        video(root / name, 8)
    (root / "b/2.png").write_bytes((root / "b/2.png").read_bytes()[:40])
    (root / "c/1.png").write_bytes(b"")
    save(root / "d/7.png", 7, size=24)

    def damage() -> None:
        (root / "e/3.png").unlink()

    made = make(root, tmp_path / "out", damage=damage, layout="frames", resolution=SIZE, num_frames=4)
    assert made.rejects == {
        "b": ("shards", "corrupt"),
        "c": ("clips", "corrupt"),
        "d": ("shards", "corrupt"),
        "e": ("shards", "changed"),
    }
    assert made.details["d"] == "frame 6: 7.png is 24x24, others differ"
    assert {name: len(clips) for name, clips in made.clips.items()} == {"a": 2, "b": 1, "d": 1}
    assert greys(made, "b") == [5, 6, 7, 8]


def test_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    video(outside / "v", 4)
    for name in ("good", "mixed"):
        video(root / name, 4)
    (root / "good/5.png").symlink_to(root / "mixed/4.png")
    (root / "mixed/5.png").symlink_to(outside / "v/1.png")
    (root / "linked").symlink_to(outside / "v")
    (root / "loop").symlink_to("loop")
    (root / ".hidden").mkdir()
    save(root / ".hidden/1.png", 0)
    assert {name: v.reject and v.reject[0] for name, v in listed(root).items()} == {
        "good": None,
        "mixed": "unsafe_path",
        "linked": "unsafe_path",
    }


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root / "good", 4)
    for folder in (b"bad\xff", b"names"):
        path = os.fsencode(root) + b"/" + folder
        Path(os.fsdecode(path)).mkdir()
        for i in range(1, 5):
            save(root / "tmp.png", i).rename(os.fsdecode(path + b"/\xfe_%d.png" % i))
    Path(os.fsdecode(os.fsencode(root) + b"/names/\xfe_3.png")).write_bytes(b"damaged")
    made = frames(root, tmp_path)
    assert {name.encode() and reason for name, reason in made.rejects.items()} == {
        ("clips", "unreadable"),
        ("shards", "corrupt"),
    }
    assert list(made.clips) == ["good"]


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for root in (tmp_path, tmp_path / "nowhere"):
        for layout in (list_frames, list_frame_lists):
            with pytest.raises(UsageError) as caught:
                layout(root, DataConfig(root=str(root)))
            assert caught.value.hint


# Lists of images


def write_list(root: Path, split: str, lines: list[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def frame_lists(root: Path, tmp_path: Path, **data: Any) -> Made:
    return make(root, tmp_path / "out", **{"layout": "frame_lists", "resolution": SIZE, "num_frames": 4, **data})


def test_lists_with_relative_and_absolute_paths(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root / "images", 8, "a_{:04d}.png")
    video(root / "images", 4, "b_{:04d}.png", value=100)
    video(root / "other", 4, "a_{:04d}.png", first=9, value=50)
    names = [f"a_{i:04d}.png" for i in range(1, 9)]
    write_list(root, "train", [*(f"images/{name}" for name in reversed(names)), "", "images/a_0001.png"])
    absolute = [str(root / "images" / f"b_{i:04d}.png") for i in range(1, 5)]
    write_list(root, "test", [*absolute, *(f"./images/../other/a_{i:04d}.png" for i in range(9, 13))])
    made = frame_lists(root, tmp_path)
    assert made.rejects == {}
    assert {(row["source"], row["item"], row["split"], row["frames"]) for row in made.rows} == {
        ("images#a_0001.png..a_0008.png", "a_0001.png..a_0008.png", "train", 8),
        ("images#b_0001.png..b_0004.png", "b_0001.png..b_0004.png", "test", 4),
        ("other#a_0009.png..a_0012.png", "a_0009.png..a_0012.png", "test", 4),
    }
    assert greys(made, "images#a_0001.png..a_0008.png") == list(range(1, 9))
    assert greys(made, "other#a_0009.png..a_0012.png") == list(range(59, 63))


def test_a_gap_or_another_name_starts_a_new_video(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root, 30, "v_{:d}.png")  # no zeros before the numbers: by name, each step would look like a gap
    video(root, 4, "v_{:d}.jpg", first=31)
    video(root, 4, "w_{:d}.png", first=31)
    save(root / "single.png", 0)
    lines = [f"v_{i}.png" for i in range(1, 31) if i not in (5, 17)]
    write_list(root, "train", [*lines, "single.png"])
    write_list(root, "test", [*(f"v_{i}.jpg" for i in range(31, 35)), *(f"w_{i}.png" for i in range(31, 35))])
    made = frame_lists(root, tmp_path)
    assert made.rejects == {".#single.png..single.png": ("clips", "too_short")}
    assert {name: len(clips) for name, clips in made.clips.items()} == {
        ".#v_1.png..v_4.png": 1,
        ".#v_6.png..v_16.png": 2,
        ".#v_18.png..v_30.png": 3,
        ".#v_31.jpg..v_34.jpg": 1,
        ".#w_31.png..w_34.png": 1,
    }
    assert greys(made, ".#v_6.png..v_16.png") == list(range(6, 14)), "images that the list leaves out stay out"


def test_a_listed_image_that_is_not_there(tmp_path: Path) -> None:
    root = tmp_path / "data"
    video(root, 8, "a_{:02d}.png")
    video(root, 4, "b_{:02d}.png")
    (root / "a_03.png").unlink()
    write_list(root, "train", [f"a_{i:02d}.png" for i in range(1, 9)])
    write_list(root, "test", [f"b_{i:02d}.png" for i in range(1, 5)])
    made = frame_lists(root, tmp_path)
    assert made.rejects == {".#a_01.png..a_08.png": ("clips", "missing_frames")}
    assert made.details[".#a_01.png..a_08.png"] == "a_03.png is not there"
    assert list(made.clips) == [".#b_01.png..b_04.png"]


def test_paths_outside_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    video(root, 4, "a_{:d}.png")
    video(root / "mixed", 3, "a_{:d}.png")
    video(outside, 4, "a_{:d}.png")
    (root / "mixed/a_4.png").symlink_to(outside / "a_4.png")
    (root / "linked").symlink_to(tmp_path)
    (root / "alias").symlink_to(root)
    lines = ["../outside", str(outside), "linked", "mixed", "alias/mixed/.."]
    write_list(root, "train", [f"{lines[0]}/a_1.png", f"{lines[1]}/a_3.png", f"{lines[2]}/a_1.png"])
    write_list(root, "test", [f"{folder}/a_{i}.png" for folder in lines[3:] for i in range(1, 5)])
    videos = list_frame_lists(root, DataConfig(root=str(root)))
    assert {v.source: v.reject and v.reject[0] for v in videos} == {
        "../outside/a_1.png..a_1.png": "unsafe_path",
        f"{outside}/a_3.png..a_3.png": "unsafe_path",
        "linked/a_1.png..a_1.png": "unsafe_path",
        "mixed#a_1.png..a_4.png": "unsafe_path",
        ".#a_1.png..a_4.png": None,
    }
    made = frame_lists(root, tmp_path)
    assert list(made.clips) == [".#a_1.png..a_4.png"]


def test_lists_with_mistakes(tmp_path: Path) -> None:
    def message(train: list[str], test: list[str]) -> str:
        write_list(tmp_path, "train", train)
        write_list(tmp_path, "test", test)
        with pytest.raises(UsageError) as caught:
            list_frame_lists(tmp_path, DataConfig(root=str(tmp_path)))
        assert caught.value.hint
        return str(caught.value)

    assert "test.txt:2" in message(["a_1.png"], ["b_1.png", "b_1.mp4"])
    assert "a_1.png is named by train.txt and by test.txt" in message(["a_1.png"], ["x/../a_1.png"])
    (tmp_path / "alias").symlink_to(tmp_path)
    assert "a_1.png is named by train.txt and by test.txt" in message(["a_1.png"], ["alias/a_1.png"])
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        list_frame_lists(tmp_path, DataConfig(root=str(tmp_path)))


# Several kinds of images in a folder


def test_two_kinds_of_frames_in_a_folder_are_two_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    video(root / "one", 4, "rgb_{:03d}.png", first=0)
    video(root / "one", 4, "depth_{:03d}.png", first=0, value=100)
    video(root / "two", 4, "{:d}.png", value=200)
    made = frames(root, tmp_path, test_fraction=0.0)
    assert made.rejects == {}
    assert {name: greys(made, name) for name in made.clips} == {
        "one#rgb_*.png": [0, 1, 2, 3],
        "one#depth_*.png": [100, 101, 102, 103],
        "two": [201, 202, 203, 204],
    }
    assert "one#depth_*.png" in capsys.readouterr().err


def test_a_thumbnail_rejects_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for name in ("one", "two"):
        video(root / name, 4, "{:04d}.jpg", value=100)
        save(root / name / "thumbnail.jpg", 0, size=8)
    made = frames(root, tmp_path, test_fraction=0.0)
    assert made.rejects == {}
    assert greys(made, "one") == greys(made, "two") == [101, 102, 103, 104]
    assert "no frames: one/thumbnail.jpg, two/thumbnail.jpg" in capsys.readouterr().err


def test_decimals_sort_as_numbers(tmp_path: Path) -> None:
    root = tmp_path / "data/one"
    for value, name in enumerate(("0.5", "1.25", "2.0", "10.125"), start=1):
        save(root / f"frame_{name}.png", value)
    assert greys(frames(root.parent, tmp_path, test_fraction=0.0), "one") == [1, 2, 3, 4]


def test_a_kind_of_frames_that_is_gone_after_ingest(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind in ("rgb", "depth"):
        video(root / "one", 4, kind + "_{:03d}.png", first=0)

    def damage() -> None:
        for path in (root / "one").glob("depth_*"):
            path.unlink()

    made = make(root, tmp_path / "out", damage=damage, layout="frames", resolution=SIZE, num_frames=4)
    assert set(made.rejects) == {"one#depth_*.png", "one#rgb_*.png"}
    assert {reason for _, reason in made.rejects.values()} == {"changed"}
