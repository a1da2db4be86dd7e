"""A folder of images as a video: all of them in natural order, or a run of them.

`item` is None for all images of the folder, else `first..last`, the file names of the ends of a run: every image that
shares the part of its name before the number with `first`, from its number to that of `last`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vtok.video.errors import VideoError
from vtok.video.media.sequence import FrameSequence, Opened, sequence_facts

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
_BLOCK = 1 << 20


@contextmanager
def open_frames(folder: Path, item: str | None, fps: float) -> Iterator[Opened]:
    """Opens the images of a folder.

    Raises:
        VideoError: vanished, no_frames, or the first image cannot be read.
    """
    paths = [folder / name for name in frame_names(folder, item)]
    first = _read(paths[0])
    height, width, _ = first.shape

    def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
        frame = first if index == 0 else _read(paths[index])
        if frame.shape != first.shape:
            raise VideoError("corrupt", f"{paths[index].name} is {frame.shape[1]}x{frame.shape[0]}, others differ")
        return frame

    facts = sequence_facts(
        codec=paths[0].suffix.lstrip(".").lower(), fps=fps, height=height, width=width, frames=len(paths)
    )
    size = sum(path.stat().st_size for path in paths)
    yield Opened(folder, size, FrameSequence(facts, size, read, lambda: _digest(paths)))


def frame_names(folder: Path, item: str | None) -> list[str]:
    """The file names of the images of an item, in order.

    Raises:
        VideoError: vanished or no_frames.
    """
    try:
        names = [path.name for path in folder.iterdir() if is_image(path.name)]
    except OSError as error:
        raise VideoError("vanished", f"no such folder: {error.strerror}") from None
    names.sort(key=frame_key)
    if item is not None:
        first, _, last = item.partition("..")
        low, high = frame_key(first), frame_key(last)
        names = [name for name in names if low <= frame_key(name) <= high]
    if not names:
        raise VideoError("no_frames", "the folder has no images")
    return names


def is_image(name: str) -> bool:
    """Whether a file counts as a frame."""
    return not name.startswith(".") and name.lower().endswith(IMAGES)


def frame_key(name: str) -> tuple[str, int, str]:
    """A sort key: what comes before the last number of the stem, that number, the name."""
    found = re.match(r"^(.*?)(\d+)\D*$", Path(name).stem)
    return (found[1], int(found[2]), name) if found else (Path(name).stem, -1, name)


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise VideoError("vanished", f"no such file: {path.name}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError("corrupt", f"{path.name}: {type(error).__name__}") from None


def _digest(paths: list[Path]) -> str:
    """sha256 over the names and contents of all images."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VideoError("vanished", f"{path.name}: {error.strerror}") from None
        digest.update(f"{path.name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
