"""UCF-101 (https://www.crcv.ucf.edu/data/UCF101.php): v_<Class>_gNN_cNN.avi and its official split lists.

`ucfTrainTestlist/` holds classInd.txt ("1 ApplyEyeMakeup", from 1), trainlist0N.txt ("Class/file.avi label") and
testlist0N.txt ("Class/file.avi"). The videos may lie in class folders, in train/ and test/, or all together. A file's
class is the one that its list gives it: the files of HandstandPushups are called v_HandStandPushups_*.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_videos, reject_of

LISTS = "ucfTrainTestlist"


def list_ucf101(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos with their official splits and labels (0-based: classInd minus 1).

    Raises:
        UsageError: no such folder, no videos, or the split lists are not there.
    """
    found = find_videos(root)
    folder = root / LISTS if (root / LISTS).is_dir() else root
    labels = _labels(folder / "classInd.txt")
    placed: dict[str, tuple[str, str]] = {}  # file name to split and class
    for split in ("train", "test"):
        for line in _read(folder / f"{split}list{config.split_list:02d}.txt"):
            listed = PurePosixPath(line.split()[0])
            placed[listed.name] = split, listed.parent.name
    videos = []
    for path, source in found:
        name = PurePosixPath(source).name
        split, class_name = placed.get(name, ("train", None))
        reject = reject_of(path, root)
        if reject is None and class_name not in labels:
            reject = ("not_in_split", f"not in train or test list {config.split_list:02d}")
        label = labels.get(class_name) if class_name is not None else None
        videos.append(SourceVideo(path, source, split, label, class_name, reject=reject))
    return videos


def _read(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
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
