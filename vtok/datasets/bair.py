"""BAIR robot pushing (https://arxiv.org/abs/1710.05268): TFRecord files of 64x64 videos with the robot's actions.

`softmotion30_44k/{train,test}/*.tfrecords`, as bair_robot_pushing_dataset_v0.tar unpacks it, or wherever folders of the
splits lie, in any usual spelling. Every record is a video of 30 frames, seen by two cameras (`data.bair_view`; VideoGPT
uses image_aux1). See `vtok.video.media.tfrecord`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_files, reject_of, source_name
from vtok.datasets.folder import place_sound
from vtok.video.media.tfrecord import walk_records

FOLDER = "softmotion30_44k"
ENDINGS = (".tfrecords", ".tfrecord")
PUBLISHED = {"train": 43264, "test": 256}
"""Videos of each split."""


def list_bair(root: Path, config: DataConfig) -> list[SourceVideo]:
    """Every record of every file, found by the records' lengths alone; there are no labels.

    Raises:
        UsageError: no such folder, or no TFRecord file in it.
    """
    found = find_files(root, ENDINGS, "TFRecord files") if root.is_dir() else []
    listed = [(source, PurePosixPath(source).parts[:-1], reject_of(path, root)) for path, source in found]
    places = place_sound(root, listed, prescribed=True)
    if not any(spot.split for spot in places.values()):
        raise UsageError(
            "no TFRecord files of BAIR in this folder",
            at=str(root),
            hint=f"unpack bair_robot_pushing_dataset_v0.tar there: it holds {FOLDER}/train and {FOLDER}/test",
        )
    order = sorted(found, key=lambda file: places[file[1]].split != "train")  # stable: train first, then in order
    return [
        video._replace(split=places[name].split or "train", reject=video.reject or places[name].reject)
        for path, name in order
        for video in _records(path, name, reject_of(path, root), config.bair_view)
    ]


def _records(path: Path, name: str, unsafe: tuple[str, str] | None, view: str) -> list[SourceVideo]:
    if unsafe is not None:
        return [SourceVideo(path, name, reject=unsafe)]
    videos = []
    for record in walk_records(path):
        item = f"{record.number}@{record.offset}:{view}"
        source = source_name(name, item)
        videos.append(SourceVideo(path, source, reject=record.reject, medium="tfrecord", item=item))
    return videos
