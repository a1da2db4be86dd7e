"""A folder of videos: with or without train/ and test/, with or without class folders, or just files."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from vtok.datasets.base import SourceVideo, find_videos, reject_of

SPLITS = ("train", "test", "val", "validation")
_BUCKETS = 10_000


def list_folder(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos below a root.

    - A first folder named train, test, val or validation is the split.
    - The folder that holds a file, below that, is its class; files directly in the root (or split) have none. If some
      have a class and some have not, nobody has.
    - Without such folders a video goes to `test` if the hash of its path below the root falls into the first
      `test_fraction` of all hashes: adding or removing other videos does not move it. So that no split is empty, the
      video with the smallest hash goes to `test` if none would, and the one with the largest to `train`.

    Raises:
        UsageError: no such folder, or no video in it.
    """
    found = find_videos(root)
    placed = [(path, source, *_place(source)) for path, source in found]
    if all(split is None for _, _, split, _ in placed):
        split_of = hashed_splits([source for _, source in found], config.test_fraction)
    else:
        split_of = {source: split or "train" for _, source, split, _ in placed}
    rejects = {source: reject_of(path, root) for path, source in found}
    classes = [name for _, source, _, name in placed if rejects[source] is None]
    names = sorted({name for name in classes if name is not None})
    labelled = bool(names) and None not in classes
    return [
        SourceVideo(
            path,
            source,
            split_of[source],
            names.index(name) if labelled and name in names else None,
            name if labelled and name in names else None,
            reject=rejects[source],
        )
        for path, source, _, name in placed
    ]


def _place(source: str) -> tuple[str | None, str | None]:
    """(split, class) that a path says; None where it says nothing."""
    folders = list(PurePosixPath(source).parts[:-1])
    split = folders.pop(0) if folders and folders[0] in SPLITS else None
    if split == "validation":
        split = "val"
    return split, folders[-1] if folders else None


def hashed_splits(sources: list[str], test_fraction: float) -> dict[str, str]:
    """From each source to `test` or `train`, by a hash of its name; see `list_folder`."""
    hashes = {
        source: int(hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest(), 16) for source in sources
    }
    splits = {
        source: "test" if value % _BUCKETS < test_fraction * _BUCKETS else "train" for source, value in hashes.items()
    }
    if test_fraction > 0 and len(sources) > 1:
        if "test" not in splits.values():
            splits[min(hashes, key=lambda source: hashes[source])] = "test"
        if "train" not in splits.values():
            splits[max(hashes, key=lambda source: hashes[source])] = "train"
    return splits
