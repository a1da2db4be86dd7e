from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets import LAYOUTS
from vtok.datasets.base import SourceVideo
from vtok.datasets.folder import list_folder
from vtok.video.errors import VideoError
from vtok.video.probe import probe


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _list(root: Path, **config: Any) -> list[SourceVideo]:
    return list_folder(root, DataConfig(root=str(root), **config))


def test_layouts() -> None:
    assert set(LAYOUTS) == set(get_args(DataConfig.model_fields["layout"].annotation))


def test_split_and_class_folders(tmp_path: Path) -> None:
    root = _tree(tmp_path, "train/cat/1.mp4", "train/dog/1.mp4", "test/ape/1.mp4", "val/dog/2.MKV", "test/dog/3.webm")
    found = {v.source: (v.split, v.label, v.class_name) for v in _list(root)}
    assert found == {
        "train/cat/1.mp4": ("train", 1, "cat"),
        "train/dog/1.mp4": ("train", 2, "dog"),
        "test/ape/1.mp4": ("test", 0, "ape"),  # classes are numbered over all splits
        "test/dog/3.webm": ("test", 2, "dog"),
        "val/dog/2.MKV": ("val", 2, "dog"),
    }


def test_natural_order_and_absolute_paths(tmp_path: Path) -> None:
    root = _tree(tmp_path, "clip10.mp4", "clip2.mp4", "clip1.avi", "b/1.mp4", "1²2.mp4", "٣.mp4")
    sources = [v.source for v in _list(root)]
    assert [s for s in sources if s.startswith("clip")] == ["clip1.avi", "clip2.mp4", "clip10.mp4"]
    assert len(sources) == 6
    assert all(v.path == root / v.source for v in _list(root))


def test_what_is_no_video_is_ignored(tmp_path: Path) -> None:
    root = _tree(tmp_path, "a.mp4", ".hidden.mp4", ".cache/b.mp4", "notes.txt", "c.mp4.part", "d.jpg", "e.mp4.tmp")
    assert [v.source for v in _list(root)] == ["a.mp4"]
    kinds = ["avi", "mp4", "webm", "mkv", "mov", "gif", "m4v", "mpg", "ts"]
    assert len(_list(_tree(tmp_path / "kinds", *(f"x.{kind}" for kind in kinds)))) == len(kinds)


def test_links_that_leave_the_root(tmp_path: Path) -> None:
    outside = _tree(tmp_path / "outside", "secret.mp4") / "secret.mp4"
    root = _tree(tmp_path / "root", "a.mp4")
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    (root / "out.mp4").symlink_to(outside)
    (root / "up.mp4").symlink_to("../outside/secret.mp4")
    rejects = {v.source: v.reject and v.reject[0] for v in _list(root)}
    assert rejects == {"a.mp4": None, "inside.mp4": None, "out.mp4": "unsafe_path", "up.mp4": "unsafe_path"}


def test_links_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    root = _tree(tmp_path, "a.mp4")
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "one.mp4").symlink_to("two.mp4")
    (root / "two.mp4").symlink_to("one.mp4")
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    loop = ("unreadable", "a link that leads back to itself")
    assert {v.source: v.reject for v in _list(root)} == {
        "a.mp4": None,
        "gone.mp4": ("unreadable", "a link to a file that is not there"),
        **dict.fromkeys(("one.mp4", "self.mp4", "two.mp4"), loop),
    }


def test_hashed_splits_do_not_move(tmp_path: Path) -> None:
    root = _tree(tmp_path, *(f"v{i}.mp4" for i in range(400)))
    before = {v.source: v.split for v in _list(root, test_fraction=0.25)}
    assert 70 <= list(before.values()).count("test") <= 130
    for i in range(0, 400, 3):
        (root / f"v{i}.mp4").unlink()
    after = {v.source: v.split for v in _list(root, test_fraction=0.25)}
    assert all(before[source] == split for source, split in after.items())


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_split_is_empty(count: int, tmp_path: Path) -> None:
    for fraction in (0.001, 0.999):
        root = _tree(tmp_path / str(fraction), *(f"{i}.mp4" for i in range(count)))
        assert {v.split for v in _list(root, test_fraction=fraction)} == {"train", "test"}
    assert {v.split for v in _list(root, test_fraction=0.0)} == {"train"}


def test_files_without_class_folders_have_no_label(tmp_path: Path) -> None:
    assert [(v.label, v.class_name) for v in _list(_tree(tmp_path, "train/a.mp4", "test/b.mp4"))] == [(None, None)] * 2


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _list(tmp_path / "nowhere")
    assert caught.value.hint
    with pytest.raises(UsageError) as caught:
        _list(_tree(tmp_path, "readme.txt"))
    assert ".mp4" in caught.value.hint
    with pytest.raises(UsageError):
        _list(tmp_path / "readme.txt")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Manifests are UTF-8: such a file must become a reject, not a crash later on."""
    name = os.fsencode(tmp_path) + b"/bad\xff.mp4"
    Path(os.fsdecode(name)).write_bytes(b"x")
    _tree(tmp_path, "good.mp4")
    found = {v.source: v.reject for v in _list(tmp_path)}
    for source in found:
        source.encode("utf-8")
    assert found["good.mp4"] is None
    assert [reject[0] for reject in found.values() if reject] == ["unreadable"]


def test_a_link_to_a_folder_is_a_reject_and_disturbs_no_labels(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for place in (root / "Cats" / "a.mp4", root / "Dogs" / "b.mp4", outside / "c.mp4"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (root / "more").symlink_to(outside)
    videos = {video.source: video for video in list_folder(root, DataConfig(root=str(root)))}
    assert set(videos) == {"Cats/a.mp4", "Dogs/b.mp4", "more"}
    assert videos["more"].reject is not None
    assert videos["more"].reject[0] == "unsafe_path"
    assert [videos[name].label for name in ("Cats/a.mp4", "Dogs/b.mp4")] == [0, 1]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _tree(tmp_path, "a/1.mp4", "closed/2.mp4")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    closed = {"closed"}
    assert [video.source for video in _list(root)] == ["a/1.mp4", "closed"]
    with pytest.raises(VideoError, match="a folder that cannot be listed"):
        probe(root / "closed")
    closed = {root.name}
    with pytest.raises(UsageError, match="cannot be listed: Permission denied"):
        _list(root)
