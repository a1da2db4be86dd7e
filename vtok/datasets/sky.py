"""Sky Time-lapse (https://arxiv.org/abs/1709.07592): clips of skies as folders of JPEG files.

`sky_timelapse/{sky_train,sky_test}/<video id>/<clip number>/<video id>_frames_%08d.jpg`, as in MD-GAN's archive. Every
clip folder is a video, as in TATS; MD-GAN takes its first 32 frames. There are no labels.
"""

from __future__ import annotations

from pathlib import Path

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo
from vtok.datasets.frames import find_frame_folders

FOLDER = "sky_timelapse"
SPLITS = {"sky_train": "train", "sky_test": "test"}
"""From folder to split."""
PUBLISHED: dict[str, int] = {}
"""Videos of each split: no count of the clip folders is published."""


def list_sky(root: Path, config: DataConfig) -> list[SourceVideo]:
    """Every clip folder, with the split that its first folder names.

    Raises:
        UsageError: no such folder, or neither sky_train nor sky_test in it.
    """
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    if not any((base / name).is_dir() for name in SPLITS):
        raise UsageError(
            "no Sky Time-lapse in this folder",
            at=str(root),
            hint=f"unpack its archive there: it holds {FOLDER}/sky_train and {FOLDER}/sky_test",
        )
    videos = []
    for folder in find_frame_folders(root):
        parts = folder.path.relative_to(base).parts if folder.path.is_relative_to(base) else ()
        split = SPLITS.get(parts[0]) if parts else None
        reject = folder.reject
        if reject is None and split is None:
            reject = "not_in_split", "neither below sky_train nor below sky_test"
        videos.append(SourceVideo(folder.path, folder.name, split or "train", reject=reject, medium="frames"))
    return videos
