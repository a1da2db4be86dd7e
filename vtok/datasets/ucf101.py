"""UCF-101 (https://www.crcv.ucf.edu/data/UCF101.php): v_<Class>_gNN_cNN.avi and its official split lists.

`ucfTrainTestlist/` holds classInd.txt ("1 ApplyEyeMakeup", from 1), trainlist0N.txt ("Class/file.avi label") and
testlist0N.txt ("Class/file.avi"). The videos may lie in class folders, in train/ and test/, or all together, also
converted to another container: they are found by their stems. A file's class is the one that its list gives it: the
files of HandstandPushups are called v_HandStandPushups_*.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, reject_of
from vtok.datasets.lists import Found, choose, in_order, index_videos, look_up, note_converted, unlisted

LISTS = "ucfTrainTestlist"


def list_ucf101(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos with their official splits and labels (0-based: classInd minus 1).

    Raises:
        UsageError: no such folder, none of the lists' videos, or the split lists are not there.
    """
    index = index_videos(root)
    folder = root / LISTS if (root / LISTS).is_dir() else root
    labels = _labels(folder / "classInd.txt")
    videos: dict[str, SourceVideo] = {}
    named: list[tuple[str, str]] = []
    for split in ("train", "test"):
        for line in _read(folder / f"{split}list{config.split_list:02d}.txt"):
            listed = PurePosixPath(line.split()[0])
            video = _place(listed, split, root, index, labels)
            named += [(listed.name, video.source)]
            before = videos.setdefault(video.source, video)
            if (before.split, before.class_name) != (split, listed.parent.name):
                said = f"{before.split} {before.class_name}, {split} {listed.parent.name}"
                reject = ("not_in_split", f"the lists contradict each other: {said}")
                videos[video.source] = before._replace(reject=reject)
    note_converted(named)
    rest = unlisted(index, (video.path for video in videos.values()), root)
    return in_order([*videos.values(), *rest], root, "are the videos below data.root?")


def _place(
    listed: PurePosixPath, split: str, root: Path, index: dict[str, list[Found]], labels: dict[str, int]
) -> SourceVideo:
    """The video that a line of a list names."""
    class_name = listed.parent.name
    if found := look_up(index, listed.name):
        path, source = choose(found, class_name, split)
        reject = reject_of(path, root)
    else:
        path, source = root / listed, listed.as_posix()
        reject = ("missing", f"{split}: no {listed.name}")
    if reject is None and class_name not in labels:
        reject = ("not_in_split", f"classInd.txt names no class {class_name}")
    return SourceVideo(path, source, split, labels.get(class_name), class_name, reject=reject)


def _read(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"UCF-101's {path.name} is not there",
            at=str(path),
            hint="unpack UCF101TrainTestSplits-RecognitionTask.zip below data.root, or use data.layout: folder",
        ) from None


def _labels(path: Path) -> dict[str, int]:
    """From class name to label."""
    try:
        pairs = [line.split() for line in _read(path)]
        return {name: int(number) - 1 for number, name in pairs}
    except ValueError:
        raise UsageError(
            "UCF-101's classInd.txt is damaged: its lines must read `1 ApplyEyeMakeup`",
            at=str(path),
            hint="unpack UCF101TrainTestSplits-RecognitionTask.zip again",
        ) from None
