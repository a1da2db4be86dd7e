from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.video.making import numbers, write_video
from vtok.datasets.base import SourceVideo

HEADER = ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
ROWS = [
    ["zumba", "-bcdefghijk", "6", "16", "train", "0"],
    ["massaging person's head", "abc_efghijk", "1", "11", "validate", "0"],
    ["abseiling", "gone0000000", "3", "13", "train", "0"],
]
ZUMBA, HEAD = "-bcdefghijk_000006_000016.mp4", "abc_efghijk_000001_000011.mp4"


def _write(root: Path, rows: list[list[str]], name: str = "kinetics_all.csv", header: list[str] = HEADER) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _facts(video: SourceVideo) -> tuple[str, int | None, str | None]:
    return video.split, video.label, video.class_name


@pytest.mark.parametrize(
    ("zumba", "head"),
    [
        ("train/zumba/", "val/massaging_person's_head/"),
        ("zumba/", "massaging person's head/"),
        ("train/", "val/"),
        ("", ""),
    ],
)
def test_splits_and_labels_wherever_the_videos_lie(zumba: str, head: str, tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    found = listed(_touch(tmp_path, zumba + ZUMBA, head + HEAD), "kinetics")
    assert _facts(found[zumba + ZUMBA]) == ("train", 2, "zumba")
    assert _facts(found[head + HEAD]) == ("val", 1, "massaging person's head")
    assert all(found[name].span is None and found[name].item is None for name in (zumba + ZUMBA, head + HEAD))
    assert rejects(found) == {"abseiling/gone0000000_000003_000013.mp4": "missing"}


def test_lists_of_the_splits_apart_and_test_videos_without_labels(tmp_path: Path) -> None:
    _write(tmp_path, [row[:4] for row in ROWS[:1]], "annotations/kinetics_train.csv", HEADER[:4])
    _write(tmp_path, [row[:5] for row in ROWS[1:2]], "annotations/val.csv", HEADER[:5])
    _write(tmp_path, [["xyz00000000", "0", "10", "test"]], "annotations/test.csv", HEADER[1:5])
    test = "xyz00000000_000000_000010.mp4"
    found = listed(_touch(tmp_path, ZUMBA, HEAD, test), "kinetics")
    assert [_facts(found[name]) for name in (ZUMBA, HEAD, test)] == [
        ("train", 1, "zumba"),
        ("val", 0, "massaging person's head"),
        ("test", None, None),
    ]
    chosen = listed(tmp_path, "kinetics", annotations="annotations/val.csv")
    assert _facts(chosen[HEAD]) == ("val", 0, "massaging person's head")
    assert rejects(chosen) == {ZUMBA: "not_in_split", test: "not_in_split"}


def test_of_two_copies_the_one_in_the_class_folder_counts(tmp_path: Path) -> None:
    _write(tmp_path, ROWS[:1])
    names = [f"abseiling/{ZUMBA}", f"zumba/{ZUMBA}", f"other/{ZUMBA}"]
    assert rejects(listed(_touch(tmp_path, *names), "kinetics")) == {
        names[0]: "not_in_split",
        names[2]: "not_in_split",
    }


def test_a_video_that_lists_put_into_two_splits_is_a_reject_and_a_repeated_row_is_not(tmp_path: Path) -> None:
    _write(tmp_path, [ROWS[0], ROWS[0], ROWS[1], [*ROWS[1][:4], "test", "0"]])
    found = listed(_touch(tmp_path, ZUMBA, HEAD), "kinetics")
    assert rejects(found) == {HEAD: "not_in_split"}
    assert found[HEAD].reject is not None and "test massaging" in found[HEAD].reject[1]


def test_whole_videos_are_cut_to_their_parts(tmp_path: Path) -> None:
    _write(tmp_path, [["zumba", "whole", "1", "2", "train", "0"], ["abseiling", "whole", "3", "4", "val", "0"]])
    write_video(tmp_path / "whole.mp4", 110, fps=25, size=(48, 48))
    (tmp_path / "zumba").mkdir()
    write_video(tmp_path / "zumba" / ZUMBA, 8, size=(48, 48))
    _write(tmp_path, [ROWS[0]], "more.csv")
    made = make(tmp_path, "kinetics", num_frames=12)
    assert made.rejects == [(f"zumba/{ZUMBA}", "too_short")]
    parts = {source: [numbers(clip.frames_thwc) for clip in clips] for source, clips in made.clips.items()}
    assert parts == {
        "whole.mp4#1-2": [list(range(25, 37)), list(range(37, 49))],
        "whole.mp4#3-4": [list(range(75, 87)), list(range(87, 99))],
    }
    rows = [clip.row for clips in made.clips.values() for clip in clips]
    assert {(row["split"], row["label"], row["class_name"]) for row in rows} == {
        ("train", 1, "zumba"),
        ("val", 0, "abseiling"),
    }
    assert len({row["clip_id"] for row in rows}) == 4


def test_all_videos_missing_is_the_users_error(tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    with pytest.raises(UsageError, match="none of the 3 videos") as caught:
        listed(tmp_path, "kinetics")
    assert caught.value.hint
    with pytest.raises(UsageError, match="none of the 3 videos"):
        listed(_touch(tmp_path, "other.mp4"), "kinetics")


@pytest.mark.parametrize(
    ("row", "header"),
    [
        (["a", "b"], ["label", "video"]),
        (["a", "b", "one", "2", "train"], HEADER[:5]),
        (["a", "b", "1", "2", "trial"], HEADER[:5]),
        (["a", "b", "1", "inf", "train"], HEADER[:5]),
    ],
)
def test_a_damaged_list_is_the_users_error(row: list[str], header: list[str], tmp_path: Path) -> None:
    _write(tmp_path, [row], header=header)
    with pytest.raises(UsageError, match=r"column|line 2") as caught:
        listed(_touch(tmp_path, ZUMBA), "kinetics")
    assert caught.value.at.endswith("kinetics_all.csv")


def test_no_list_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Kinetics' list is not there"):
        listed(_touch(tmp_path, ZUMBA), "kinetics")
    with pytest.raises(UsageError, match="no such folder"):
        listed(tmp_path / "nowhere", "kinetics")


def test_the_classes_of_kinetics600_are_in_alphabetical_order() -> None:
    """So labels from the lists are those of the published label map."""
    folder = Path(os.environ.get("VTOK_DATASETS", "nowhere"))
    if not (folder / "kinetics600-label-map.txt").is_file():
        pytest.skip("set VTOK_DATASETS to a folder with kinetics600-label-map.txt")
    names = (folder / "kinetics600-label-map.txt").read_text().splitlines()
    assert len([name for name in names if name]) == 600
    assert [name for name in names if name] == sorted(name for name in names if name)


def test_listing_looks_at_folders_and_not_at_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 650,000 rows must not become as many questions to a network disk."""
    names = [f"v{number:010d}_000001_000011.mp4" for number in range(40)]
    _touch(tmp_path, *(f"train/zumba/{name}" for name in names[:30]))
    _write(tmp_path, [["zumba", name[:11], "1", "11", "train", "0"] for name in names])
    asked = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *a, real=real, **o: asked.append(os.fspath(path)) or real(path, *a, **o)
        )
    scans = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scandir(path))
    found = listed(tmp_path, "kinetics")
    assert len(found) == 40 and len(rejects(found)) == 10
    assert scans[:3] == [str(tmp_path), str(tmp_path / "train"), str(tmp_path / "train/zumba")]
    videos = [path for path in asked if str(path).endswith(".mp4")]
    assert len(videos) == len(set(videos)) == 30, "a link is told from a file by one question each"
