"""A folder of images as a video: its frames in order of their numbers, or a run of consecutive numbers.

`item` is None for the only video of a folder; `rgb_*.png` where it holds several (`vtok.video.media.frame_sets`); or
`first..last`, the file names of the ends of a run: clip_0007.jpg .. clip_0012.jpg is these six files, whatever else the
folder holds.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vtok.video.errors import VideoError
from vtok.video.media.rgb import rgb_of
from vtok.video.media.sequence import FrameSequence, Opened, sequence_facts
from vtok.video.signatures import what_it_is

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
_DIGITS = re.compile(r"([0-9]+)")


class FrameName(NamedTuple):
    """A file name with a number in it, the last one of its stem.

    Attributes:
        before: what comes before the number.
        number: as a whole number, of at most 18 digits; -1 if there is none.
        digits: as it is written.
        after: what comes after it, the extension included.
    """

    before: str
    number: int
    digits: str
    after: str


@contextmanager
def open_frames(folder: Path, item: str | None, fps: float) -> Iterator[Opened]:
    """Opens the images of a folder.

    Raises:
        VideoError: vanished, no_frames, missing_frames, or the first image cannot be read.
    """
    paths = [folder / name for name in frame_names(folder, item)]
    size = sum(_size(path) for path in paths)
    first = _read(paths[0])
    height, width, _ = first.shape

    def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
        frame = first if index == 0 else _read(paths[index])
        if frame.shape != first.shape:
            raise VideoError("corrupt", f"{_name(paths[index])} is {frame.shape[1]}x{frame.shape[0]}, others differ")
        return frame

    facts = sequence_facts(
        codec=paths[0].suffix.lstrip(".").lower(), fps=fps, height=height, width=width, frames=len(paths)
    )
    yield Opened(folder, size, FrameSequence(facts, size, read, lambda: _digest(paths)))


def frame_names(folder: Path, item: str | None) -> list[str]:
    """The file names of the images of an item, in order; those of a run are not looked up.

    Raises:
        VideoError: vanished, no_frames or changed.
    """
    from vtok.video.media.frame_sets import frame_sets  # it needs this module's names

    if item is not None and "*" not in item:
        return expand_run(item)
    try:
        names = [path.name for path in folder.iterdir() if is_image(path.name)]
    except OSError as error:
        raise VideoError("vanished", f"no such folder: {error.strerror}") from None
    if not names:
        raise VideoError("no_frames", "the folder has no images")
    videos = frame_sets(names).videos
    if item in videos:
        return videos[item]
    if item is not None:
        return expand_run(item)  # of names with a star in them
    raise VideoError("changed", f"the folder holds {len(videos)} videos now: {', '.join(str(one) for one in videos)}")


def is_image(name: str) -> bool:
    """Whether a file counts as a frame."""
    return not name.startswith(".") and name.lower().endswith(IMAGES)


def split_name(name: str) -> FrameName:
    """A file name's last number and what is around it."""
    stem, ending = Path(name).stem, Path(name).suffix
    found = re.fullmatch(r"(.*?)([0-9]{1,18})([^0-9]*)", stem, re.DOTALL)
    return FrameName(found[1], int(found[2]), found[2], found[3] + ending) if found else FrameName(stem, -1, "", ending)


def frame_key(name: str) -> tuple[int, list[str | int], str]:
    """A sort key: the number first, as TATS sorts, so that x_2 comes before x_10 and before y_3.

    Among equal numbers what comes before them counts, in natural order: 9_left comes before 10_left.
    """
    frame = split_name(name)
    parts: list[str | int] = [int(part) if i % 2 else part for i, part in enumerate(_DIGITS.split(frame.before))]
    return frame.number, parts, name


def next_name(name: FrameName) -> FrameName:
    """The name of the frame after this one, with zeros before its number if this one has any."""
    number = name.number + 1
    return FrameName(name.before, number, str(number).zfill(len(name.digits)), name.after)


def expand_run(item: str) -> list[str]:
    """The file names of `first..last`.

    Raises:
        VideoError: changed, if the item is no run.
    """
    for dots in re.finditer(r"(?=\.\.)", item):  # a name may contain two dots itself
        frame, last = split_name(item[: dots.start()]), split_name(item[dots.start() + 2 :])
        if (frame.before, frame.after) == (last.before, last.after):
            names = [_joined(frame)]
            while 0 <= frame.number < last.number:
                frame = next_name(frame)
                names.append(_joined(frame))
            return names
    raise VideoError("changed", f"no run of images is called {item}")


def _joined(name: FrameName) -> str:
    return f"{name.before}{name.digits}{name.after}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise VideoError("missing_frames", f"{_name(path)} is not there") from None
    except OSError as error:
        raise VideoError("unreadable", f"{_name(path)}: {error.strerror}") from None


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(path) as image:
            return rgb_of(image)
    except FileNotFoundError:
        raise VideoError("vanished", f"no such file: {_name(path)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of a dozen formats raise whatever a damaged file leads them to
        told = what_it_is(path, "image") or type(error).__name__
        raise VideoError("corrupt", f"{_name(path)}: {told}") from None


def _name(path: Path) -> str:
    """A file's name; bytes that are not UTF-8 are spelt out, because rejects are UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _digest(paths: list[Path]) -> str:
    """sha256 over the names and contents of all images."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VideoError("vanished", f"{_name(path)}: {error.strerror}") from None
        digest.update(os.fsencode(path.name) + f"\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
