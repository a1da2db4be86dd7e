"""The dataset doctor finds what was planted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from schemas.config.data import DataConfig
from tests.video.making import write_video
from vtok.cli import main
from vtok.datasets.catalogue import DATASETS
from vtok.datasets.soundness import FAIL, OK, WARN, Finding, examine

NAMES = [f"Class{c}/v_Class{c}_g{g:02d}_c01.avi" for c in range(2) for g in range(4)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in UCF-101's form: groups 0 and 1 in test, 2 and 3 in train."""
    video = write_video(tmp_path / "one.avi", 20, size=(96, 96))
    lists = tmp_path / "root" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    for name in NAMES:
        place = tmp_path / "root" / "UCF-101" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, place)
    (lists / "classInd.txt").write_text("1 Class0\n2 Class1\n")
    train = [name for name in NAMES if "g02" in name or "g03" in name]
    (lists / "trainlist01.txt").write_text("".join(f"{name} {int(name[5]) + 1}\n" for name in train))
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in NAMES if name not in train))
    return tmp_path / "root"


def look(root: Path, **changes: object) -> dict[str, Finding]:
    dataset = DATASETS["ucf101"]._replace(videos={"train": 4, "test": 4}, classes=2)
    config = DataConfig(root=str(root), layout="ucf101", num_frames=16, **changes)  # type: ignore[arg-type]
    return {finding.name: finding for finding in examine(dataset, config)}


def test_a_sound_tree(root: Path) -> None:
    found = look(root)
    assert {finding.level for finding in found.values()} == {OK}
    assert found["videos train"].detail == "4 of 4 published"
    assert found["readable"].detail == "8 of 8 can be opened and are long enough: 8 clips"
    assert found["groups"].detail == "8 groups, none in both train and test"


def test_a_missing_video(root: Path) -> None:
    (root / "UCF-101" / NAMES[0]).unlink()
    found = look(root)
    assert found["videos test"].level == WARN
    assert "3 of 4" in found["videos test"].detail


def test_files_that_cannot_be_used(root: Path) -> None:
    (root / "UCF-101" / NAMES[0]).write_bytes(b"")
    (root / "UCF-101" / NAMES[1]).write_bytes(b"no video" * 100)
    found = look(root)
    assert found["empty"].level == FAIL
    assert found["empty"].examples == (f"UCF-101/{NAMES[0]}: 0 bytes",)
    assert found["unreadable"].level == FAIL
    assert "get the files again" in found["unreadable"].hint
    assert look(root, frame_stride=2)["too_short"].level == WARN


def test_a_group_in_train_and_test(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    moved = "Class0/v_Class0_g02_c02.avi"
    shutil.copyfile(root / "UCF-101" / NAMES[0], root / "UCF-101" / moved)
    with (lists / "testlist01.txt").open("a") as file:
        file.write(f"{moved}\n")
    found = look(root)
    assert found["groups"].level == FAIL
    assert found["groups"].examples == (f"UCF-101/{NAMES[2]}", f"UCF-101/{moved}")
    assert found["videos test"].level == WARN


def test_a_video_twice_and_one_that_no_list_names(root: Path) -> None:
    (root / "copy").mkdir()
    shutil.copyfile(root / "UCF-101" / NAMES[0], root / "copy" / Path(NAMES[0]).name)
    shutil.copyfile(root / "UCF-101" / NAMES[0], root / "copy" / "v_Class9_g01_c01.avi")
    found = look(root)
    assert "names" not in found, "of two files of one name, one is used"
    copies = (f"copy/{Path(NAMES[0]).name}", "copy/v_Class9_g01_c01.avi")
    assert found["not_in_split"].examples == copies


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "doctor", "ucf101", str(root), "num_frames=16"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "WARN videos train" in shown
    assert "4 of 9,537 published: some are missing" in shown
    assert "next: vtok data ingest" in shown
    (root / "UCF-101" / NAMES[0]).write_bytes(b"")
    assert main(arguments) == 1
    assert main([*arguments, "--names-only", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.partition("[")[2].join(["[", ""]))
    assert {row["name"] for row in rows} == {"videos train", "videos test", "classes", "groups"}
    assert main(["data", "doctor", "ucf101", str(root), "num_frame=16"]) == 2
    assert "did you mean num_frames?" in capsys.readouterr().err


def test_unpack_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "unpack", "nothing", str(root)]) == 2
    assert "vtok knows ucf101" in capsys.readouterr().err


def test_each_official_split_has_its_own_size(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    for kind in ("train", "test"):
        shutil.copyfile(lists / f"{kind}list01.txt", lists / f"{kind}list03.txt")
    assert look(root, split_list=3)["videos train"].detail.startswith("4 of 9,624 published")
