"""MUGEN (https://arxiv.org/abs/2204.08058): rendered videos of a platform game, with captions.

`train.json`, `val.json` and `test.json` hold {"metadata": {...}, "data": [{"video": {"json_file", "video_file", ...},
"annotations": [{"type", "text"}]}]}. A video is found by the name of its `video_file`, or of its `json_file`, anywhere
below the root: the `data_folder` of the metadata is a path on its authors' machine. Only rendered videos are read:
drawing the frames from the games in `json_file`, as the authors' loader can, is not part of vtok.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, reject_of, without_ending
from vtok.datasets.lists import (
    Found,
    choose,
    find_lists,
    in_order,
    index_videos,
    look_up,
    note_converted,
    read_json,
    unlisted,
)
from vtok.datasets.splits import split_word, splits_in

LISTS = ("*.json", "*/*.json", "*/*/*.json")
"""Where the lists are looked for, if their names are those of splits: coinrun_dataset_jsons/release/train.json."""

_RENDER = "vtok reads rendered videos only: render the games to .mp4 first, with the dataset's own code"


def list_mugen(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The rendered videos with their splits and captions; nothing has a label.

    Raises:
        UsageError: no such folder, no lists, damaged lists, or no rendered video.
    """
    index = index_videos(root)
    if not index:
        raise UsageError("no rendered videos in this folder", at=str(root), hint=_RENDER)
    tables = find_lists(root, config.annotations, LISTS, "MUGEN's train.json or test.json", names_split)
    videos: dict[str, SourceVideo] = {}
    named: list[tuple[str, str]] = []
    for table in tables:
        said = splits_in(table.stem)
        if len(said) != 1:
            raise UsageError(
                f"the list's name says {'two splits' if said else 'no split'}",
                at=str(table),
                hint="name it train.json, val.json or test.json",
            )
        (split,) = said
        for number, entry in enumerate(_entries(table)):
            video, name = _place(entry, split, root, index, config.caption_type, f"{table}: data[{number}]")
            named.append((name, video.source))
            before = videos.setdefault(video.source, video)
            if before.split != split:
                reject = ("not_in_split", f"the lists contradict each other: {before.split}, {split}")
                videos[video.source] = before._replace(reject=reject)
    note_converted(named)
    rest = unlisted(index, (video.path for video in videos.values()), root)
    return in_order([*videos.values(), *rest], root, _RENDER)


def names_split(path: Path) -> bool:
    """Whether a list's whole name is that of a split."""
    return split_word(path.stem) is not None


def _entries(path: Path) -> list[Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("data"), list):
        raise UsageError(
            "the list has no `data`: it is none of MUGEN's",
            at=str(path),
            hint="name the right lists with data.annotations; render CoinRun's games first",
        )
    return list(found["data"])


def _place(
    entry: Any, split: str, root: Path, index: dict[str, list[Found]], caption_type: str, at: str
) -> tuple[SourceVideo, str]:
    """The video of an entry, and its file's name in the list."""
    try:
        files = [entry["video"][key] for key in ("video_file", "json_file") if entry["video"].get(key)]
        names = [PurePosixPath(str(file)).name.removesuffix(".json") for file in files]
        texts = {str(note["type"]): str(note["text"]) for note in reversed(entry.get("annotations") or [])}
        expected = names[0]
    except (KeyError, TypeError, AttributeError, IndexError):
        raise UsageError(
            "this entry is none of MUGEN's: it needs video.json_file or video.video_file",
            at=at,
            hint="name the right lists with data.annotations",
        ) from None
    caption = texts.get(caption_type) or next((text for text in reversed(texts.values()) if text), None)
    found = next((same for name in names if (same := look_up(index, name))), None)
    if found is None:
        source = f"{split}/{without_ending(expected)}.mp4"
        path = root / source
        gone = ("missing", "the game is not rendered")
        return SourceVideo(path, source, split, caption=caption, reject=gone), without_ending(expected)
    path, source = choose(found, split)
    return SourceVideo(path, source, split, caption=caption, reject=reject_of(path, root)), expected
