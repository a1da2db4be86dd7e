"""Counts every file below a dataset's root: what is a video (used or rejected), and what is none.

Lists, captions, labels, companions and hidden files are no videos; neither is a file whose name says nothing that could
be read, so that a video under an odd name is at least seen in the count.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from schemas.paths import ObjectPath
from vtok.datasets.base import SourceVideo
from vtok.video.errors import VideoError
from vtok.video.media.frame_sets import frame_sets
from vtok.video.media.images import expand_run, is_image

_KINDS = 8  # endings that are told apart


class FileTally(NamedTuple):
    """How many files there are below a root.

    Attributes:
        videos: files that hold videos or frames of videos, whatever becomes of them.
        others: files that are no videos, by ending, the most frequent first; the rare ones are together.
    """

    videos: int
    others: dict[str, int]

    @property
    def said(self) -> str:
        """`3 .txt, 1 hidden`."""
        return ", ".join(f"{count:,} {kind}" for kind, count in self.others.items())


def tally_files(root: Path, videos: Iterable[SourceVideo]) -> FileTally:
    """Counts what is there; a video that a list names and that is missing is no file."""
    files: set[str] = set()
    folders: dict[str, list[SourceVideo]] = {}
    for video in videos:
        if video.medium == "frames":
            folders.setdefault(_below(video.path, root), []).append(video)
        else:
            files.add(_below(video.path, root))
    found, others = 0, Counter[str]()
    for folder, names in _folders(root):
        frames = _frames(folders[folder], names) if folder in folders else frozenset()
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if name in frames or path in files:
                found += 1
            else:
                others["hidden" if path.startswith(".") or "/." in path else _ending(name)] += 1
    frequent = dict(others.most_common(_KINDS))
    if rest := others.total() - sum(frequent.values()):
        frequent["of other kinds"] = rest
    return FileTally(found, frequent)


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder, by its path below the root, and the names of its files."""
    if isinstance(root, ObjectPath):
        listed = list(root.rglob("*"))
        folders_there = {str(path.parent) for path in listed}  # a store lists them, too
        for path in listed:
            if str(path) not in folders_there:
                yield _below(path.parent, root), [path.name]
        return
    for folder, folders, names in os.walk(root):
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        yield _below(Path(folder), root), names + linked


def _below(path: Path, root: Path) -> str:
    """A path below the root as text; "" for the root itself."""
    text, base = str(path), str(root)
    return "" if text == base else text.removeprefix(base.rstrip("/") + "/")


def _frames(videos: list[SourceVideo], names: list[str]) -> frozenset[str]:
    """The images of a folder that are frames of these videos."""
    images = [name for name in names if is_image(name)]
    if any(video.reject is not None and video.item is None for video in videos):
        return frozenset(images)
    sets = frame_sets(images)
    used: set[str] = set()
    for video in videos:
        try:
            used.update(sets.videos.get(video.item) or expand_run(video.item or ""))
        except VideoError:
            continue  # its frames are gone by now
    return frozenset(used)


def _ending(name: str) -> str:
    ending = Path(name).suffix.lower()
    return os.fsencode(ending).decode("utf-8", "backslashreplace") or "without an ending"
