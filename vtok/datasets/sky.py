"""Sky Time-lapse (https://arxiv.org/abs/1709.07592): clips of skies as folders of JPEG files.

`sky_timelapse/{sky_train,sky_test}/<video id>/<clip number>/<video id>_frames_%08d.jpg`, as in MD-GAN's archive. Every
clip folder is a video, as in TATS; MD-GAN takes its first 32 frames. There are no labels.
"""

from __future__ import annotations

from pathlib import Path

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, source_path
from vtok.datasets.folder import place_sound
from vtok.datasets.frames import find_frame_folders, frame_videos
from vtok.datasets.splits import split_word

FOLDER = "sky_timelapse"
NEUTRAL = frozenset({"sky"})
"""What the names of the split folders hold besides the split."""
PUBLISHED: dict[str, int] = {}
"""Videos of each split: no count of the clip folders is published."""


def list_sky(root: Path, config: DataConfig) -> list[SourceVideo]:
    """Every clip folder, with the split that a folder above it names: sky_train or sky_test, in any usual spelling.

    Raises:
        UsageError: no such folder, or neither sky_train nor sky_test in it.
    """
    folders = find_frame_folders(root, required=False)
    if not any(split_word(part, NEUTRAL) for folder in folders for part in folder.parts):
        raise UsageError(
            "no Sky Time-lapse in this folder",
            at=str(root),
            hint=f"unpack its archive there: it holds {FOLDER}/sky_train and {FOLDER}/sky_test",
        )
    above = [(folder.name, folder.parts, folder.reject) for folder in folders]
    places = place_sound(root, above, neutral=NEUTRAL, prescribed=True)
    return [
        video._replace(split=spot.split or "train", reject=video.reject or spot.reject)
        for video in frame_videos(folders)
        for spot in (places[source_path(video.source, video.item)],)
    ]
