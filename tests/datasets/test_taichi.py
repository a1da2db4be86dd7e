from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.video.making import numbered_frame, numbers, write_video
from vtok.datasets.catalogue import DATASETS
from vtok.datasets.taichi import read_parts

EXCERPT = Path(__file__).parent / "taichi-metadata-excerpt.csv"
HEADER = "video_id,start,end,bbox,fps,width,height,partition"


def _metadata(root: Path, *rows: str) -> Path:
    (root / "taichi-metadata.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def _part(index: int, first: int) -> Image.Image:
    return Image.fromarray(numbered_frame(index + first, 48, 48))


def test_the_published_metadata() -> None:
    path = Path(os.environ.get("VTOK_DATASETS", "nowhere")) / "taichi-metadata.csv"
    if not path.is_file():
        pytest.skip("set VTOK_DATASETS to a folder with taichi-metadata.csv")
    parts = read_parts(path)
    assert Counter(part.split for part in parts) == DATASETS["taichi"].videos == {"train": 3049, "test": 285}
    assert all(part.bbox[2] <= part.width and part.bbox[3] <= part.height for part in parts)
    with EXCERPT.open() as stream:
        assert next(csv.DictReader(stream))["video_id"] == parts[0].video


def test_an_excerpt_of_the_metadata(tmp_path: Path) -> None:
    """Every row is a video, in its official split; what is not downloaded is a reject."""
    (tmp_path / "taichi-metadata.csv").write_bytes(EXCERPT.read_bytes())
    rows = list(csv.DictReader(EXCERPT.open()))
    (tmp_path / f"{rows[0]['video_id']}.mp4").write_bytes(b"x")
    found = listed(tmp_path, "taichi")
    assert len(found) == len(rows) == 20
    first = found["u6rJiF-gPx8.mp4#80-300"]
    assert first.split == "train" and first.reject is None and first.label is None
    assert first.bbox == (118, 82, 508, 472) and first.bbox_size == (640, 480)
    assert first.span == pytest.approx((80 / 29.97, 300 / 29.97))
    assert Counter(video.split for video in found.values()) == Counter(row["partition"] for row in rows)
    missing = {name for name, reason in rejects(found).items() if reason == "missing"}
    assert missing == {name for name in found if not name.startswith("u6rJiF-gPx8")}


@pytest.mark.parametrize("fps", [25, 50, 15])
def test_downloaded_videos_are_cut_by_time_and_box(fps: int, tmp_path: Path) -> None:
    """Frames i with start * fps <= i * 25 < end * fps, of a video of half the size that the box refers to."""
    start, end = 15, 29
    root = _metadata(tmp_path, f"a-b,{start},{end},96-0-192-96,25.0,192,96,test")
    write_video(root / "a-b.mp4", 70, fps=fps, size=(48, 96))
    made = make(root, "taichi", num_frames=1)
    (source, clips), *_ = made.clips.items()
    assert source == "a-b.mp4#15-29" and clips[0].row["bbox"] == [48, 0, 96, 48] and clips[0].row["split"] == "test"
    wanted = [i for i in range(70) if start * fps <= i * 25 < end * fps]
    assert [clip.row["start_frame"] for clip in clips] == wanted
    for clip, index in zip(clips, wanted, strict=True):  # the right half of the frame holds the upper six bits
        whole = numbered_frame(index, 48, 96)[:, 48:].astype(int)
        assert np.abs(clip.frames_thwc[0].astype(int) - whole).mean() < 25


@pytest.mark.parametrize("metadata", [True, False])
def test_parts_that_are_cut_already(metadata: bool, tmp_path: Path) -> None:
    rows = ["v_1,80,100,1-2-30-40,12.5,192,96,train", "v_1,200,208,1-2-30-40,12.5,192,96,test"]
    if metadata:
        _metadata(tmp_path, *rows)
    (tmp_path / "train").mkdir()
    write_video(tmp_path / "train" / "v_1#000080#000100.mp4", 8, size=(48, 48))
    folder = tmp_path / "test" / "v_1#000200#000208"
    folder.mkdir(parents=True)
    for index in range(8):
        _part(index, 200).save(folder / f"{index:07d}.png")
    made = make(tmp_path, "taichi", num_frames=8)
    assert made.rejects == []
    (video,), (frames,) = made.clips["train/v_1#000080#000100.mp4"], made.clips["test/v_1#000200#000208"]
    assert numbers(video.frames_thwc) == list(range(8)) and numbers(frames.frames_thwc) == list(range(200, 208))
    assert (video.row["split"], frames.row["split"]) == ("train", "test")
    assert (video.row["bbox"], frames.row["bbox"]) == (None, None)
    assert frames.row["fps"] == (12.5 if metadata else 25.0)


def test_without_metadata_only_what_is_cut_counts(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match="taichi-metadata"):
        listed(tmp_path, "taichi")
    (tmp_path / "v#000080#000100.mp4").write_bytes(b"x")
    assert rejects(listed(tmp_path, "taichi")) == {"other.mp4": "not_in_split"}


@pytest.mark.parametrize(
    "row",
    [
        "v,80,100,1-2-30,25.0,192,96,train",
        "v,100,80,1-2-30-40,25.0,192,96,train",
        "v,80,100,1-2-30-40,0,192,96,train",
        "v,80,100,1-2-30-40,25.0,192,96,trial",
        "good,80,100,1-2-30-40,25.0,192,96,train",
    ],
)
def test_damaged_metadata_is_the_users_error(row: str, tmp_path: Path) -> None:
    root = _metadata(tmp_path, "good,80,100,1-2-30-40,25.0,192,96,train", row)
    (root / "good.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match="line 3"):
        listed(root, "taichi")


def test_two_lists(tmp_path: Path) -> None:
    """Rows that are in both count once, unless they differ."""
    row = "v,80,100,1-2-30-40,25.0,192,96,"
    for name, rows in (("a.csv", [row + "train"]), ("b.csv", [row + "train", "w" + row[1:] + "test"])):
        (tmp_path / name).write_text("\n".join([HEADER, *rows]) + "\n")
    (tmp_path / "v.mp4").write_bytes(b"x")
    found = listed(tmp_path, "taichi", annotations="*.csv")
    assert list(found) == ["v.mp4#80-100", "w.mp4#80-100"]
    (tmp_path / "c.csv").write_text(f"{HEADER}\n{row}test\n")
    with pytest.raises(UsageError, match="contradict"):
        listed(tmp_path, "taichi", annotations="*.csv")


def test_no_video_of_the_metadata(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of the 1 videos"):
        listed(_metadata(tmp_path, "v,80,100,1-2-30-40,25.0,192,96,train"), "taichi")
