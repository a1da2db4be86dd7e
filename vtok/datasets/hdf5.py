"""HDF5 files of videos, as VideoGPT (https://arxiv.org/abs/2104.10157) and TATS (https://arxiv.org/abs/2204.03638) use.

`{split}_data` (train, test or val in any usual spelling) holds all frames after each other, uint8 (frames, h, w, 3),
and `{split}_idx` where each video starts: one entry a video in VideoGPT's form; in TATS's one more, the number of
frames, by which the forms are told apart. On purpose unlike the originals, the last video of VideoGPT's form counts,
and so does a video of exactly one clip's length. `{split}_labels` (one entry a video, from 0; attribute `classes`:
their names) and `{split}_actions` (one row a frame) are optional, and so are TATS's captions beside the file,
`{split}_text_description.txt`, of which a video gets its first, and its file of semantic maps (`data.semantic_maps`).
`vtok.datasets.hdf5_write` makes such files.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, find_files, name_below, natural, reject_of, source_name
from vtok.datasets.splits import split_word
from vtok.datasets.tats_pairs import smap_companion, text_descriptions
from vtok.video.errors import VideoError

ENDINGS = (".h5", ".hdf5")
SPLITS = ("train", "test", "val")
"""The splits in the order in which they are listed; the names of the arrays begin with them, in any usual spelling."""

_MOST_VIDEOS = 5_000_000  # each takes some 300 bytes of memory
_MOST_CLASSES = 1_000_000
_MOST_ARRAYS = 10_000  # names that are looked at


def list_hdf5(root: Path, config: DataConfig) -> list[SourceVideo]:
    """Every video of every HDF5 file below the root; only starts and labels are read.

    Raises:
        UsageError: no such folder, or no HDF5 file in it.
    """
    if root.is_file():
        raise UsageError("data.root is a file", at=str(root), hint="set it to the folder that holds the HDF5 file")
    paths = [path for path, _ in find_files(root, ENDINGS, "HDF5 files")]
    if not paths:
        known = " or ".join(ENDINGS)
        raise UsageError("no HDF5 files in this folder", at=str(root), hint=f"files ending in {known} count")
    maps = config.semantic_maps
    if maps is not None and root / maps not in paths:
        raise UsageError("no such file of semantic maps", at=str(root / maps), hint="correct data.semantic_maps")
    videos: list[SourceVideo] = []
    for path in paths:
        if maps is None or path != root / maps:
            videos += _videos(path, name_below(path, root), reject_of(path, root), maps)
    return videos


def _videos(path: Path, name: str, reject: tuple[str, str] | None, maps: str | None) -> list[SourceVideo]:
    from vtok.video.media.hdf5 import open_hdf5  # h5py takes a fifth of a second to import

    if reject is not None:
        return [SourceVideo(path, name, reject=reject)]
    videos: list[SourceVideo] = []
    try:
        with open_hdf5(path) as file:
            for split, prefix in _prefixes(file):
                videos += _split(file, path, name, split, prefix, maps)
    except VideoError as error:
        return [SourceVideo(path, name, reject=(error.reason, error.detail))]
    if not videos:
        return [SourceVideo(path, name, reject=("no_video", "no array is called train_data or test_data"))]
    return videos


def _prefixes(file: Any) -> list[tuple[str, str]]:
    """(split, what the names of its arrays begin with) of every split in a file."""
    from vtok.video.media.hdf5 import reading

    with reading():
        named = (key.rpartition("_") for key in itertools.islice(file, _MOST_ARRAYS))
        begins = {begin for begin, _, end in named if end in ("data", "idx")}
    said = [(split, begin) for begin in begins if (split := split_word(begin))]
    return sorted(said, key=lambda one: (SPLITS.index(one[0]), natural(one[1])))


def _split(file: Any, path: Path, name: str, split: str, prefix: str, maps: str | None) -> list[SourceVideo]:
    """The videos of one split; a split that cannot be read is one reject, so that the others survive."""
    from vtok.video.media.hdf5 import Written, find_video_arrays, reading

    try:
        with reading():
            arrays = find_video_arrays(file, prefix)
            if arrays is None:
                return []
            data, starts = arrays
            if len(starts) - 1 > min(_MOST_VIDEOS, Written(data).most):
                written = f"{Written(data).most} frames were ever written"
                said = f"{prefix}_idx has {len(starts)} entries: at most {_MOST_VIDEOS} are read, and at most {written}"
                raise VideoError("implausible", said)
            ends_with_total = len(starts) > 0 and int(starts[-1]) == len(data)
            count = len(starts) - ends_with_total
            labels, classes = _labels(file, prefix, count)
            edges = [*(int(start) for start in starts[:count]), len(data)] if maps is not None else []
    except VideoError as error:
        return [SourceVideo(path, source_name(name, prefix), split, reject=(error.reason, error.detail), item=prefix)]
    captions = _captions(path.parent, prefix, count)
    videos = []
    for number in range(count):
        item = f"{prefix}/{number}"
        label = None if labels is None else int(labels[number])
        class_name = classes[label] if label is not None and 0 <= label < len(classes) else None
        source = source_name(name, item)
        video = SourceVideo(path, source, split, label, class_name, captions[number], medium="hdf5", item=item)
        if maps is not None:
            video = video._replace(companions=smap_companion(maps, prefix, edges[number], edges[number + 1]))
        videos.append(video)
    return videos


def _captions(folder: Path, prefix: str, count: int) -> list[str | None]:
    """The first caption of each video.

    Raises:
        UsageError: there are captions, but not a line a video.
    """
    lines = text_descriptions(folder, prefix)
    if lines is None:
        return [None] * count
    if len(lines) != count:
        raise UsageError(
            f"{prefix}_text_description.txt has {len(lines)} lines, there are {count} videos",
            at=str(folder),
            hint="a line a video, its captions between tabs; an empty line for none",
        )
    return [texts[0] if texts else None for texts in lines]


def _labels(file: Any, prefix: str, count: int) -> tuple[np.ndarray | None, list[str]]:
    """A label a video, and the names of the classes, as far as they are given.

    Raises:
        VideoError: they do not fit the videos.
    """
    from vtok.video.media.hdf5 import find_array

    found = find_array(file, f"{prefix}_labels")
    if found is None:
        return None, []
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise VideoError("corrupt", f"{prefix}_labels is {found.dtype} {found.shape}, there are {count} videos")
    labels = found[:]
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_CLASSES:
        raise VideoError("corrupt", f"{prefix}_labels has labels from {int(labels.min())} to {int(labels.max())}")
    return labels, [str(name) for name in np.atleast_1d(found.attrs.get("classes", []))]
