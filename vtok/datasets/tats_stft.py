"""Videos with spectra, as TATS (https://arxiv.org/abs/2204.03638) trains on AudioSet-Drums.

`stft/{train,test}/NAME.pickle` holds an array (90, 45, 17), a spectrum for each of 90 frames, and `video/{train,test}/
NAME.mp4` the frames. The spectra become `stft.npy` of a clip, a row a frame, as they are: TATS scales them to -1..1 and
resizes them to 64x16 when it trains.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_videos, reject_of
from vtok.datasets.lists import Found, in_order, unlisted
from vtok.video.media.companions import companion_address

COMPANION = "stft"


def list_tats_stft(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos, each with its spectra; one without the other is a reject.

    Raises:
        UsageError: no such folder, no spectra, or no videos.
    """
    files: dict[str, list[Found]] = {}
    for path, source in find_videos(root):
        files.setdefault(PurePosixPath(source).with_suffix("").as_posix(), []).append((path, source))
    spectra = [path for split in ("train", "test") for path in (root / COMPANION / split).rglob("*.pickle")]
    if not spectra:
        raise UsageError(
            "there are no spectra", at=str(root / COMPANION), hint="they are stft/{train,test}/*.pickle below data.root"
        )
    videos = []
    for spectrum in spectra:
        name = spectrum.relative_to(root / COMPANION).with_suffix("").as_posix()
        companions = {COMPANION: companion_address(spectrum.relative_to(root).as_posix())}
        if found := files.get(f"video/{name}"):
            path, source = found.pop(0)
            reject = reject_of(path, root) or reject_of(spectrum, root)
        else:
            path, source = root / f"video/{name}.mp4", f"video/{name}.mp4"
            reject = ("missing", f"{COMPANION}/{name}.pickle has no video")
        videos.append(SourceVideo(path, source, name.split("/")[0], reject=reject, companions=companions))
    rest = unlisted(files, [], root)
    return in_order([*videos, *rest], root, "the videos are video/{train,test}/*.mp4 below data.root")
