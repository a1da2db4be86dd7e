"""TGIF (https://arxiv.org/abs/1604.02748): animated GIFs, each with one or more captions.

`tgif-v1.0.tsv` has a line for each caption: the GIF's web address, a tab, the caption. `splits/{train,val,test}.txt`
beside it list the addresses of each split. A GIF is found by the last part of its address, or as a video of that
name (`.mp4`), anywhere below the root.
"""

from __future__ import annotations

from pathlib import Path

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, reject_of
from vtok.datasets.captions import Captions, file_of
from vtok.datasets.lists import choose, find_lists, in_order, index_videos, look_up, note_converted, unlisted
from vtok.datasets.splits import split_word

LISTS = ("tgif-v1.0.tsv", "*/tgif-v1.0.tsv", "tgif*.tsv", "*/tgif*.tsv")
SPLITS = ("train", "val", "test")
"""Each has a list, whose name may be spelt in any usual way."""


def list_tgif(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The GIFs with their official splits and their first captions; nothing has a label.

    Raises:
        UsageError: no such folder, no captions, no splits, or none of their GIFs.
    """
    index = index_videos(root)
    table = find_lists(root, config.annotations, LISTS, "tgif-v1.0.tsv")[0]
    captions = Captions(table)
    videos: dict[str, SourceVideo] = {}
    converted: list[tuple[str, str]] = []
    lists = _lists(table.parent / "splits")
    for split in SPLITS:
        for name in _addresses(lists.get(split, table.parent / "splits" / f"{split}.txt")):
            if found := look_up(index, name):
                path, source = choose(found, split)
                converted.append((name, source))
                reject = reject_of(path, root)
            else:
                path, source, reject = root / name, name, ("missing", f"{split}: no {name}")
            caption = next(iter(captions.of(name)), None)
            video = SourceVideo(path, source, split, caption=caption, reject=reject)
            before = videos.setdefault(source, video)
            if before.split != split:
                reject = ("not_in_split", f"the lists contradict each other: {before.split}, {split}")
                videos[source] = before._replace(reject=reject)
    note_converted(converted)
    rest = unlisted(index, (video.path for video in videos.values()), root)
    return in_order([*videos.values(), *rest], root, "are the GIFs below data.root?")


def _lists(folder: Path) -> dict[str, Path]:
    """The lists by their splits."""
    texts = sorted(folder.glob("*"), reverse=True) if folder.is_dir() else []
    return {split: path for path in texts if path.suffix.lower() == ".txt" and (split := split_word(path.stem))}


def _addresses(path: Path) -> list[str]:
    """The names of the files that a split lists."""
    try:
        return [file_of(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            "TGIF's lists of splits are not there",
            at=str(path),
            hint="put splits/{train,val,test}.txt beside the captions, or use data.layout: folder with data.captions",
        ) from None
