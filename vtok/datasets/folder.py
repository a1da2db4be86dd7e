"""A folder of videos: with or without train/ and test/, with or without class folders, or just files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_videos, reject_of
from vtok.datasets.captions import Captions
from vtok.datasets.lists import note_converted
from vtok.datasets.splits import Place, note_unlabelled, place

_BUCKETS = 10_000


def list_folder(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos below a root.

    - A folder named train, test or val, in any usual spelling, is the split; see `vtok.datasets.splits`.
    - The folder that holds a file, if it is no split folder, is its class; files directly in the root (or split) have
      none. If some have a class and some have not, nobody has.
    - Without such folders a video goes to `test` if the hash of its path below the root falls into the first
      `test_fraction` of all hashes: adding or removing other videos does not move it. So that no split is empty, the
      video with the smallest hash goes to `test` if none would, and the one with the largest to `train`.
    - `data.captions` names a file of captions; of several captions of a video, the first counts. A video that it names
      and that is not there is a reject, `missing`.

    Raises:
        UsageError: no such folder, no video in it, a tree that can be read in two ways, or captions that cannot be read
            or fit none of the videos.
    """
    found = find_videos(root)
    rejects = {source: reject_of(path, root) for path, source in found}
    places = place_sound(root, [(source, PurePosixPath(source).parts[:-1], rejects[source]) for _, source in found])
    split_of = splits_of(places, config.test_fraction)
    classes = [spot.class_name for source, spot in places.items() if (rejects[source] or spot.reject) is None]
    names = sorted({name for name in classes if name is not None})
    labelled = bool(names) and None not in classes
    note_unlabelled(classes)
    labels = {name: label for label, name in enumerate(names)}
    captions, lone = _captions(root, config.captions, [source for _, source in found])
    videos = [
        SourceVideo(
            path,
            source,
            split_of[source],
            labels[name] if labelled and name in labels else None,
            name if labelled and name in labels else None,
            captions.get(source),
            reject=rejects[source] or places[source].reject,
        )
        for path, source in found
        for name in (places[source].class_name,)
    ]
    return videos + lone


def place_sound(
    root: Path,
    videos: Iterable[tuple[str, tuple[str, ...], tuple[str, str] | None]],
    *,
    neutral: Iterable[str] = (),
    prescribed: bool = False,
) -> dict[str, Place]:
    """The places of (source, the folders above, reject) by source; what is rejected anyway has no say in the others'.

    Raises:
        UsageError: the tree can be read in two ways.
    """
    listed = list(videos)
    sound = [(source, folders) for source, folders, reject in listed if reject is None]
    places = dict.fromkeys((source for source, _, _ in listed), Place(None))
    found = place([folders for _, folders in sound], root, neutral=neutral, prescribed=prescribed)
    places.update(zip((source for source, _ in sound), found, strict=True))
    return places


def splits_of(places: Mapping[str, Place], test_fraction: float) -> dict[str, str]:
    """From each source to its split: what its place says, or, where no place says any, a hash of its name."""
    if all(spot.split is None for spot in places.values()):
        return hashed_splits(list(places), test_fraction)
    return {source: spot.split or "train" for source, spot in places.items()}


def _captions(root: Path, name: str | None, sources: list[str]) -> tuple[dict[str, str], list[SourceVideo]]:
    """The first caption of each video that has any, and rejects for the videos that are only in the list."""
    if name is None:
        return {}, []
    captions = Captions(root / name)
    found = {source: texts[0] for source in sources if (texts := captions.of(source))}
    if not found:
        raise UsageError(
            "none of these captions belongs to a video",
            at=str(root / name),
            hint="captions name videos by their path below data.root, or by file name with or without extension",
        )
    used = {source: name for source in sources if (name := captions.name_of(source)) is not None}
    note_converted((PurePosixPath(name).name, source) for source, name in used.items())
    named = set(used.values())
    lone = [
        SourceVideo(root / name, name, reject=("missing", "the captions name it, and it is not there"))
        for name in captions.names
        if name not in named
    ]
    return found, lone


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
