"""What TATS (https://arxiv.org/abs/2204.03638) keeps beside the frames in an HDF5 file: captions and semantic maps."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import UsageError
from vtok.datasets.lists import TEXT_HINT, reason
from vtok.video.media.companions import companion_address


def text_descriptions(root: Path, split: str) -> list[list[str]] | None:
    """The captions of each video of a split, in the order of the videos; None if there is no file of them.

    Args:
        root: the folder of the HDF5 file.
        split: `train` or `test`, for `{split}_text_description.txt`: a line a video, its captions between tabs.

    Raises:
        UsageError: the file cannot be read.
    """
    path = root / f"{split}_text_description.txt"
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the captions cannot be read: {reason(error)}", at=str(path), hint=TEXT_HINT) from None
    return [[text.strip() for text in line.split("\t") if text.strip()] for line in lines]


def smap_companion(path: str, split: str, start: int, stop: int) -> dict[str, str]:
    """The semantic maps of one video, for `SourceVideo.companions`.

    The maps' file has no starts of its own that count: TATS cuts both files at those of the frames' file.

    Args:
        path: the HDF5 file of the maps, below the root of the dataset.
        split: `train` or `test`, for the dataset `{split}_data` (frames, height, width[, 3]), one class a pixel.
        start, stop: rows of the video in the frames' dataset, which are also those of the maps'.
    """
    return {"smap": companion_address(path, f"{split}_data[{start}:{stop}]")}
