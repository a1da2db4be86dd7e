"""A source video as a dataset's layout describes it."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from schemas.errors import UsageError
from schemas.paths import ObjectPath
from vtok.video.extensions import EXTENSIONS


class SourceVideo(NamedTuple):
    """One video: a file, one of several in a file, a part of a file, or a folder of frames.

    Attributes:
        path: the file or folder.
        source: its identity: its path below the root, with forward slashes, and `#item` if any (`source_name`).
        split: `train`, `test`, ...
        label: class, from 0.
        class_name: its name.
        caption: text.
        reject: (reason, detail) if it must not be used.
        medium: how its frames lie (`vtok.video.media`); None: a video file.
        item: which of several videos in the file, as the medium names them; or, with `span`, a name for the part.
        span: (start, end) in seconds of the part of the video that is meant; None: all of it.
        bbox: left, top, right, bottom of the part of the picture that is meant, in pixels of a frame of `bbox_size`;
            None: all of it.
        bbox_size: width and height of the frame that `bbox` refers to; None: the video's own.
        companions: name to `path#item` below the root of arrays with one row a frame (semantic maps, spectra, ...).
        fps: frames per second where the medium does not know them; None: `data.source_fps`.
    """

    path: Path
    source: str
    split: str = "train"
    label: int | None = None
    class_name: str | None = None
    caption: str | None = None
    reject: tuple[str, str] | None = None
    medium: str | None = None
    item: str | None = None
    span: tuple[float, float] | None = None
    bbox: tuple[float, float, float, float] | None = None
    bbox_size: tuple[int, int] | None = None
    companions: dict[str, str] | None = None
    fps: float | None = None


def source_name(path: str, item: str | None) -> str:
    """The identity of an item of a file."""
    return path if item is None else f"{path}#{item}"


def source_path(source: str, item: str | None) -> str:
    """The path below the root that an identity names."""
    return source if item is None else source.removesuffix(f"#{item}")


def find_videos(root: Path, *, required: bool = True) -> list[tuple[Path, str]]:
    """(path, source) of every video file below a root, in natural order. Hidden files and folders are left out.

    The folders are listed, no file is looked at. A link to a folder and a folder that cannot be listed come like files,
    so that `reject_of` and the probe can say why what is in them is not used.

    Raises:
        UsageError: no such folder, it cannot be listed, or, if any is `required`, no video in it.
    """
    found = find_files(root, EXTENSIONS, "videos")
    if required and not found:
        known = " ".join(EXTENSIONS)
        raise UsageError("no videos in this folder", at=str(root), hint=f"files ending in {known} count as videos")
    return found


def find_files(root: Path, endings: tuple[str, ...], what: str) -> list[tuple[Path, str]]:
    """(path, source) of every file below a root that ends so, in any case; else as `find_videos`.

    Args:
        root: of the dataset.
        endings: in lower case.
        what: what the files are called, for the error.

    Raises:
        UsageError: no such folder, or it cannot be listed.
    """
    if not root.is_dir():
        wrong = f"a file, not a folder of {what}" if root.is_file() else f"no such folder of {what}"
        raise UsageError(wrong, at=str(root), hint="set data.root to the folder that holds them")
    if isinstance(root, ObjectPath):
        found = [(path, path.relative_to(root).as_posix()) for path in _stored(root, endings)]
    else:
        found = [(Path(path), utf8(source)) for path, source in _walk(str(root), "", endings)]
    return sorted(found, key=lambda item: natural(item[1]))


def _stored(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.name.lower().endswith(endings):
            yield path


def _walk(folder: str, below: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(path, name below the root); texts, because making a `Path` takes longer than finding the file."""
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
    except OSError as error:
        if not below:
            raise UsageError(f"the folder cannot be listed: {error.strerror}", at=folder) from None
        yield folder, below.removesuffix("/")
        return
    for entry in entries:
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{name}/", endings)
        elif name.lower().endswith(endings) or (entry.is_symlink() and Path(entry.path).is_dir()):
            yield entry.path, name


def utf8(name: str) -> str:
    """A name with the bytes that are not UTF-8 spelt out, because manifests are UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """A name in Unicode's composed form: macOS writes \u00e9 as two characters, lists mostly have it as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def without_ending(name: str) -> str:
    """A name without a video's extension, if it has one: a dot may be a part of it."""
    return name.removesuffix(PurePosixPath(name).suffix) if name.lower().endswith(EXTENSIONS) else name


def reject_of(path: Path, root: Path) -> tuple[str, str] | None:
    """(reason, detail) if a file must not be used, whatever is in it."""
    if path.is_symlink():
        try:
            path.stat()
        except FileNotFoundError:
            if path.resolve().is_relative_to(root.resolve()):
                return "unreadable", "a link to a file that is not there"
        except OSError as error:
            loop = error.errno == errno.ELOOP
            return "unreadable", "a link that leads back to itself" if loop else f"a link: {error.strerror}"
        if path.is_dir():
            return "unsafe_path", "a link to a folder is not followed: set data.root to it, or copy the files"
        if not path.resolve().is_relative_to(root.resolve()):
            return "unsafe_path", "a link that leaves the root"
    if utf8(str(path)) != str(path):
        return "unreadable", "the file's name is not UTF-8: rename it"
    return None


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key by which clip2 comes before clip10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def name_below(path: Path, root: Path) -> str:
    """A path's name below the root, with forward slashes and in UTF-8, as a `SourceVideo.source` starts."""
    return utf8(path.relative_to(root).as_posix())
