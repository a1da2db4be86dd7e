"""Taichi-HD (https://arxiv.org/abs/2003.00196): parts of videos, cut out by a moving-object box.

`taichi-metadata.csv` has a row for each part: video_id, start, end (frames), bbox (left-top-right-bottom), fps, width,
height, partition. The videos are either as downloaded, `{video_id}.mp4`, of which the part and the box are used:
frame i of a video with another frame rate `f` belongs to it if start * f <= i * fps < end * f, and the box is scaled
to the video's size. Or they are cut already: `{partition}/{video_id}#{start:06d}#{end:06d}`, .mp4 or a folder of
{i:07d}.png; these need no metadata. Without folders of splits, a hash of their names decides.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, reject_of, source_name
from vtok.datasets.folder import place_sound, splits_of
from vtok.datasets.lists import Found, choose, find_lists, in_order, index_videos, look_up, read_csv, unlisted
from vtok.datasets.splits import split_word

LISTS = ("taichi-metadata.csv",)

_COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition")
_CUT = re.compile(r"^(?P<video>.+)#(?P<start>\d{6,})#(?P<end>\d{6,})$")


class Part(NamedTuple):
    """One row of the metadata; see the module."""

    video: str
    start: int
    end: int
    bbox: tuple[float, float, float, float]
    fps: float
    width: int
    height: int
    split: str

    @property
    def name(self) -> str:
        """The name of its file or folder once it is cut out, without extension."""
        return f"{self.video}#{self.start:06d}#{self.end:06d}"


def list_taichi(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The parts with their official splits; nothing has a label.

    Raises:
        UsageError: no such folder, damaged metadata, none of its videos, or no metadata and nothing that is cut.
    """
    index = index_videos(root)
    folders = _cut_folders(root)
    tables = _tables(root, config.annotations, [*index, *folders])
    if not tables:
        cut = [
            SourceVideo(path, source, reject=reject_of(path, root), medium=medium)
            for medium, files in ((None, index), ("frames", folders))
            for name, found in files.items()
            if _CUT.match(name)
            for path, source in found
        ]
        above = [(video.source, PurePosixPath(video.source).parts[:-1], video.reject) for video in cut]
        places = place_sound(root, above, prescribed=True)
        splits = splits_of(places, config.test_fraction)
        videos = [v._replace(split=splits[v.source], reject=v.reject or places[v.source].reject) for v in cut]
    else:
        parts: dict[str, Part] = {}
        for part in (part for table in tables for part in read_parts(table)):
            if parts.setdefault(part.name, part) != part:
                raise UsageError(
                    f"two rows for {part.name} contradict each other",
                    at=", ".join(str(table) for table in tables),
                    hint="name the right list with data.annotations",
                )
        videos = [_place(part, root, index, folders) for part in parts.values()]
    used = {video.path for video in videos}
    rest = [*unlisted(index, used, root), *unlisted(folders, used, root)]
    return in_order([*videos, *rest], root, "are the videos below data.root?")


def read_parts(path: Path) -> list[Part]:
    """The rows of the metadata.

    Raises:
        UsageError: it is damaged, or names a part twice.
    """
    parts: dict[str, Part] = {}
    for number, row in enumerate(read_csv(path, _COLUMNS), start=2):
        try:
            left, top, right, bottom = (float(side) for side in row["bbox"].split("-"))
            width, height, start, end = (int(row[key]) for key in ("width", "height", "start", "end"))
            part = Part(
                video=row["video_id"],
                start=start,
                end=end,
                bbox=(left, top, right, bottom),
                fps=float(row["fps"]),
                width=width,
                height=height,
                split=split_word(row["partition"]) or "",
            )
            if (
                not (part.split and 0 <= start < end and part.fps > 0 and width > 0 and height > 0)
                or part.name in parts
            ):
                raise ValueError
        except (KeyError, ValueError):
            raise UsageError(
                f"line {number} is damaged, or repeats another",
                at=str(path),
                hint="take taichi-metadata.csv from the dataset's authors again",
            ) from None
        parts[part.name] = part
    return list(parts.values())


def _tables(root: Path, pattern: str | None, names: list[str]) -> list[Path]:
    """The metadata; none if it is not asked for and everything there is, is cut."""
    try:
        return find_lists(root, pattern, LISTS, "taichi-metadata.csv")
    except UsageError:
        if pattern or not any(_CUT.match(name) for name in names):
            raise
        return []


def _place(part: Part, root: Path, index: dict[str, list[Found]], folders: dict[str, list[Found]]) -> SourceVideo:
    if found := look_up(index, part.name):
        path, source = choose(found, part.split)
        return SourceVideo(path, source, part.split, reject=reject_of(path, root))
    if found := folders.get(part.name):
        path, source = choose(found, part.split)
        return SourceVideo(path, source, part.split, reject=reject_of(path, root), medium="frames", fps=part.fps)
    found = look_up(index, part.video)
    there = found is not None
    path, source = choose(found or [(root / f"{part.video}.mp4", f"{part.video}.mp4")])
    item = f"{part.start}-{part.end}"
    return SourceVideo(
        path,
        source_name(source, item),
        part.split,
        reject=reject_of(path, root) if there else ("missing", f"{part.split}: no {part.name} and no {part.video}"),
        item=item,
        span=(part.start / part.fps, part.end / part.fps),
        bbox=part.bbox,
        bbox_size=(part.width, part.height),
    )


def _cut_folders(root: Path) -> dict[str, list[Found]]:
    """The folders of images by name; what is in them is not looked at."""
    found: dict[str, list[Found]] = {}
    for folder, folders, _ in os.walk(root):
        for name in [name for name in folders if _CUT.match(name)]:
            folders.remove(name)
            path = Path(folder) / name
            if path.is_symlink():
                continue  # it is among the videos, and refused there
            found.setdefault(name, []).append((path, path.relative_to(root).as_posix()))
    return found
