"""BAIR robot pushing (https://arxiv.org/abs/1710.05268): TFRecord files of 64x64 videos with the robot's actions.

`softmotion30_44k/{train,test}/*.tfrecords`, as bair_robot_pushing_dataset_v0.tar unpacks it; every record is a video
of 30 frames, seen by two cameras (`data.bair_view`; VideoGPT uses image_aux1). See `vtok.video.media.tfrecord`.
"""

from __future__ import annotations

from pathlib import Path

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, name_below, natural, reject_of, source_name
from vtok.video.media.tfrecord import walk_records

FOLDER = "softmotion30_44k"
SPLITS = ("train", "test")
PUBLISHED = {"train": 43264, "test": 256}
"""Videos of each split."""


def list_bair(root: Path, config: DataConfig) -> list[SourceVideo]:
    """Every record of every file, found by the records' lengths alone; there are no labels.

    Raises:
        UsageError: no such folder, or no TFRecord file in it.
    """
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    files = [
        (split, path)
        for split in SPLITS
        for path in sorted((base / split).glob("*.tfrecords"), key=lambda path: natural(path.name))
        if not path.name.startswith(".")
    ]
    if not files:
        raise UsageError(
            "no TFRecord files of BAIR in this folder",
            at=str(root),
            hint=f"unpack bair_robot_pushing_dataset_v0.tar there: it holds {FOLDER}/train and {FOLDER}/test",
        )
    return [video for split, path in files for video in _records(path, root, split, config.bair_view)]


def _records(path: Path, root: Path, split: str, view: str) -> list[SourceVideo]:
    name = name_below(path, root)
    unsafe = reject_of(path, root)
    if unsafe is not None:
        return [SourceVideo(path, name, split, reject=unsafe)]
    videos = []
    for record in walk_records(path):
        item = f"{record.number}@{record.offset}:{view}"
        source = source_name(name, item)
        videos.append(SourceVideo(path, source, split, reject=record.reject, medium="tfrecord", item=item))
    return videos
