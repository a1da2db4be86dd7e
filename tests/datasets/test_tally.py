"""Every file of a tree is counted: as a video, whatever becomes of it, or as none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.reading import config
from tests.datasets.test_frames import save
from tests.datasets.test_splits import MAKERS
from vtok.datasets import LAYOUTS
from vtok.datasets.tally import FileTally, tally_files


def _tally(root: Path, layout: str) -> FileTally:
    return tally_files(root, LAYOUTS[layout](root, config(root, layout)))


@pytest.mark.parametrize(("layout", "make"), MAKERS)
def test_every_layout(layout: str, make: Callable[[Path, str], None], tmp_path: Path) -> None:
    for name in ("train", "test"):
        make(tmp_path, name)
    before = _tally(tmp_path, layout)
    beside = {"train/notes.md": 1, ".hidden.mp4": 1, ".cache/a.png": 1, "README": 1, "test/odd.mp5": 1}
    for name in beside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = _tally(tmp_path, layout)
    added = {kind: count - before.others.get(kind, 0) for kind, count in found.others.items()}
    assert {kind: count for kind, count in added.items() if count} == {
        ".md": 1,
        "hidden": 2,
        "without an ending": 1,
        ".mp5": 1,
    }
    assert found.videos == before.videos > 0
    assert found.videos + sum(found.others.values()) == sum(len(files) for _, _, files in os.walk(tmp_path))


def test_lists_companions_and_thumbnails_are_none(tmp_path: Path) -> None:
    counts = {}
    for layout, make in MAKERS:
        make(tmp_path / make.__name__, "train")
        counts[make.__name__] = _tally(tmp_path / make.__name__, layout)
    assert counts["_kinetics"] == FileTally(1, {".csv": 1})
    assert counts["_mugen"] == FileTally(1, {".json": 1})
    assert counts["_stft"] == FileTally(1, {".pickle": 1})
    assert counts["_frame_lists"] == FileTally(1, {".txt": 1})
    for number in range(4):
        save(tmp_path / "frames/one" / f"{number}.png", 0)
    save(tmp_path / "frames/one/thumbnail.jpg", 0)
    assert _tally(tmp_path / "frames", "frames") == FileTally(4, {".jpg": 1})


def test_what_is_rejected_is_a_video_and_what_is_missing_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.mp4", "b.mp4", "c.m2ts"):
        (root / name).write_bytes(b"x")
    (root / "out.mp4").symlink_to("/etc/hostname")
    (root / "more").symlink_to(tmp_path)
    (root / "captions.tsv").write_text("a\ttext\ngone\ttext\n")
    for place in (root, Path()):
        monkeypatch.chdir(root)
        videos = LAYOUTS["folder"](place, config(place, "folder", captions="captions.tsv"))
        assert sum(video.reject is not None for video in videos) == 3  # two links, and `gone`
        assert tally_files(place, videos) == FileTally(5, {".tsv": 1})


def test_rare_endings_are_together(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    for number in range(12):
        (tmp_path / f"x.k{number}").write_bytes(b"x")
    found = _tally(tmp_path, "folder")
    assert found.videos == 1 and found.others["of other kinds"] == 4 and sum(found.others.values()) == 12
