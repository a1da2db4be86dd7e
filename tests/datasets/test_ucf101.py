from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo
from vtok.datasets.ucf101 import list_ucf101


def _write(root: Path, videos: list[str], lists: Path | None = None, ending: str = "\n") -> Path:
    for name in videos:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    folder = lists or root / "ucfTrainTestlist"
    folder.mkdir(parents=True, exist_ok=True)

    def put(name: str, lines: list[str]) -> None:
        (folder / name).write_bytes("".join(line + ending for line in lines).encode())

    put("classInd.txt", ["1 ApplyEyeMakeup", "2 Archery", "3 HandstandPushups"])
    for number in (1, 2):
        train, test = ("g08", "g01") if number == 1 else ("g01", "g08")
        put(
            f"trainlist0{number}.txt",
            [
                f"ApplyEyeMakeup/v_ApplyEyeMakeup_{train}_c01.avi 1",
                f"Archery/v_Archery_{train}_c01.avi 2",
                f"HandstandPushups/v_HandStandPushups_{train}_c01.avi 3",
            ],
        )
        put(
            f"testlist0{number}.txt",
            [f"Archery/v_Archery_{test}_c01.avi", f"HandstandPushups/v_HandStandPushups_{test}_c01.avi"],
        )
    return root


def _list(root: Path, **config: Any) -> dict[str, SourceVideo]:
    return {v.source: v for v in list_ucf101(root, DataConfig(root=str(root), layout="ucf101", **config))}


ARCHERY = ["Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g01_c01.avi"]


def test_splits_and_labels(tmp_path: Path) -> None:
    found = _list(_write(tmp_path, ARCHERY))
    assert [(found[n].split, found[n].label, found[n].class_name) for n in ARCHERY] == [
        ("train", 1, "Archery"),
        ("test", 1, "Archery"),
    ]
    assert [_list(tmp_path, split_list=2)[n].split for n in ARCHERY] == ["test", "train"]


def test_files_of_a_class_that_is_spelt_otherwise_in_their_names(tmp_path: Path) -> None:
    """UCF-101's own quirk: class and folder HandstandPushups, files v_HandStandPushups_*."""
    names = [f"HandstandPushups/v_HandStandPushups_{g}_c01.avi" for g in ("g08", "g01")]
    found = _list(_write(tmp_path, names))
    assert [(found[n].split, found[n].label, found[n].class_name, found[n].reject) for n in names] == [
        ("train", 2, "HandstandPushups", None),
        ("test", 2, "HandstandPushups", None),
    ]


@pytest.mark.parametrize("prefix", ["", "UCF-101/Archery/", "train/Archery/", "anything/"])
def test_videos_may_lie_anywhere(prefix: str, tmp_path: Path) -> None:
    found = _list(_write(tmp_path, [f"{prefix}v_Archery_g08_c01.avi"]))
    assert [(v.split, v.label) for v in found.values() if v.reject is None] == [("train", 1)]


def test_lists_in_the_root_with_windows_line_ends(tmp_path: Path) -> None:
    found = _list(_write(tmp_path, ARCHERY, lists=tmp_path, ending="\r\n"))
    assert [found[n].split for n in ARCHERY] == ["train", "test"]


def test_a_file_in_no_list_is_a_reject(tmp_path: Path) -> None:
    found = _list(_write(tmp_path, [*ARCHERY, "Archery/v_Archery_g99_c01.avi", "Archery/holiday.avi"]))
    rejects = {name: v.reject[0] for name, v in found.items() if v.reject and v.reject[0] != "missing"}
    assert rejects == {"Archery/v_Archery_g99_c01.avi": "not_in_split", "Archery/holiday.avi": "not_in_split"}


@pytest.mark.parametrize("name", ["classInd.txt", "trainlist01.txt", "testlist01.txt"])
def test_a_missing_list(name: str, tmp_path: Path) -> None:
    (_write(tmp_path, ARCHERY) / "ucfTrainTestlist" / name).unlink()
    with pytest.raises(UsageError, match=name) as caught:
        _list(tmp_path)
    assert caught.value.hint


def test_a_damaged_list_is_the_users_error(tmp_path: Path) -> None:
    (_write(tmp_path, ARCHERY) / "ucfTrainTestlist" / "classInd.txt").write_text("Archery\nnonsense\n")
    with pytest.raises(UsageError, match=r"classInd\.txt"):
        _list(tmp_path)
