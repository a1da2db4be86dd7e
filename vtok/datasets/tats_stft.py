"""Videos with spectra, as TATS (https://arxiv.org/abs/2204.03638) trains on AudioSet-Drums.

`stft/{train,test}/NAME.pickle` holds an array (90, 45, 17), a spectrum for each of 90 frames, and `video/{train,test}/
NAME.mp4` the frames. The spectra become `stft.npy` of a clip, a row a frame, as they are: TATS scales them to -1..1 and
resizes them to 64x16 when it trains. The folders of the splits may be spelt in any usual way.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_files, find_videos, reject_of
from vtok.datasets.lists import Found, in_order, unlisted
from vtok.datasets.splits import place, split_word
from vtok.video.media.companions import companion_address

COMPANION = "stft"


def list_tats_stft(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos, each with its spectra; one without the other is a reject.

    Raises:
        UsageError: no such folder, no spectra, or no videos.
    """
    videos = find_videos(root)
    files = _by_name(root, "video", videos)
    spectra = _by_name(root, COMPANION, find_files(root, (".pickle", ".pkl"), "spectra"))
    if not spectra:
        raise UsageError(
            "there are no spectra", at=str(root / COMPANION), hint="they are stft/{train,test}/*.pickle below data.root"
        )
    found = []
    for (split, name), same in spectra.items():
        for spectrum, listed in same:
            companions = {COMPANION: companion_address(listed)}
            if video := files.get((split, name)):
                path, source = video.pop(0)
                reject = reject_of(path, root) or reject_of(spectrum, root)
            else:
                source = f"video/{split}/{name}.mp4"
                path, reject = root / source, ("missing", f"{listed} has no video")
            found.append(SourceVideo(path, source, split, reject=reject, companions=companions))
    rest = unlisted({source: [(path, source)] for path, source in videos}, (video.path for video in found), root)
    return in_order([*found, *rest], root, "the videos are video/{train,test}/*.mp4 below data.root")


def _by_name(root: Path, folder: str, files: list[Found]) -> dict[tuple[str, str], list[Found]]:
    """The files below a folder and a split's folder, by split and by what is left of their names without these."""
    parts_of = {source: PurePosixPath(source).with_suffix("").parts for _, source in files}
    below = [file for file in files if folder in (part.lower() for part in parts_of[file[1]][:-1])]
    places = place([parts_of[source][:-1] for _, source in below], root, prescribed=True)
    found: dict[tuple[str, str], list[Found]] = {}
    for file, spot in zip(below, places, strict=True):
        if spot.split is not None and spot.reject is None:
            *folders, stem = parts_of[file[1]]
            kept = [part for part in folders if part.lower() != folder and split_word(part) is None]
            found.setdefault((spot.split, "/".join([*kept, stem])), []).append(file)
    return found
