"""Kinetics-400, -600 and -700 (https://arxiv.org/abs/1705.06950): ten-second parts of videos, named by CSV lists.

A list has the columns label, youtube_id, time_start, time_end and split (and others, which do not matter); test lists
may lack labels. The videos are `{youtube_id}_{time_start:06d}_{time_end:06d}.mp4`, in folders of splits and classes
(spaces or underscores) or without, or whole videos `{youtube_id}.mp4`, of which the part is used. Many videos are gone
from where the lists point to: each is a reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, reject_of, source_name
from vtok.datasets.lists import Found, choose, find_lists, in_order, index_videos, look_up, read_csv, unlisted
from vtok.datasets.splits import WORDS, split_word, splits_in

LISTS = ("*.csv", "annotations/*.csv")
"""Where the lists are looked for."""


class Segment(NamedTuple):
    """One row of a list: a part of a video, seconds."""

    video: str
    start: int
    end: int
    split: str
    label: str | None

    @property
    def name(self) -> str:
        """The name of its file, without extension."""
        return f"{self.video}_{self.start:06d}_{self.end:06d}"


def list_kinetics(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos with the lists' splits; labels count the lists' classes in alphabetical order, from 0.

    Raises:
        UsageError: no such folder, no lists, damaged lists, or none of their videos.
    """
    index = index_videos(root)
    tables = find_lists(root, config.annotations, LISTS, "Kinetics' list")
    rows: dict[str, list[Segment]] = {}
    for table in tables:
        for row in read_segments(table):
            rows.setdefault(row.name, []).append(row)
    names = sorted({row.label for same in rows.values() for row in same if row.label})
    labels = {name: label for label, name in enumerate(names)}
    videos = [_place(same, root, index, labels) for same in rows.values()]
    rest = unlisted(index, (video.path for video in videos), root)
    return in_order([*videos, *rest], root, "are the videos below data.root?")


def read_segments(path: Path) -> Iterator[Segment]:
    """The rows of a list. Without a column for the split, the file's name must say it.

    Raises:
        UsageError: not such a list.
    """
    named = _split_of(path)
    for number, row in enumerate(read_csv(path, ["youtube_id", "time_start", "time_end"]), start=2):
        try:
            said = row.get("split", "").strip()
            split = split_word(said) if said else named
            if split is None:
                raise ValueError
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
        except (KeyError, ValueError, OverflowError):
            raise UsageError(
                f"line {number} has no valid split, time_start or time_end",
                at=str(path),
                hint="name the right lists with data.annotations",
            ) from None
        yield Segment(row["youtube_id"].strip(), start, end, split, row.get("label", "").strip() or None)


def _split_of(path: Path) -> str | None:
    """The split that a list's name says (kinetics-400_train.csv, K600TEST.csv); None: none, or two."""
    said = splits_in(path.stem) or {split for word, split in WORDS.items() if path.stem.lower().endswith(word)}
    return said.pop() if len(said) == 1 else None


def _place(same: list[Segment], root: Path, index: dict[str, list[Found]], labels: dict[str, int]) -> SourceVideo:
    """The video of all rows that name one part of one video."""
    row = same[0]
    class_name = row.label
    item, span = None, None
    if found := look_up(index, row.name):
        path, source = choose(found, row.split, class_name)
    elif found := look_up(index, row.video):
        path, source = choose(found, row.split, class_name)
        item, span = f"{row.start}-{row.end}", (float(row.start), float(row.end))
    else:
        source = f"{(class_name or row.split).replace(' ', '_')}/{row.name}.mp4"
        path = root / source
    reject = reject_of(path, root) if found else ("missing", f"{row.split}: no {row.name} and no {row.video}")
    said = sorted({f"{one.split} {one.label or ''}".strip() for one in same})
    if len(said) > 1:
        reject = ("not_in_split", f"the lists contradict each other: {', '.join(said)}")
    label = labels[class_name] if class_name else None
    return SourceVideo(
        path, source_name(source, item), row.split, label, class_name, reject=reject, item=item, span=span
    )
