"""Videos in tars, as WebDataset (https://github.com/webdataset/webdataset) lays them out.

A sample is the members whose names are equal up to the first dot of the file name: a video (`key.mp4`), its caption
(`key.txt`, or `caption` or `text` of `key.json`) and its class (`key.cls`, a number or a name). Tars are read where
they lie. The first folder, or a word of the tar's name (`train-00000.tar`), is the split.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, natural, reject_of, source_name
from vtok.datasets.folder import hashed_splits
from vtok.datasets.lists import SPLITS
from vtok.video.errors import VideoError
from vtok.video.media.tar import Member, scan_tar


class _Sample(NamedTuple):
    """What belongs to one key of one tar."""

    videos: list[Member]
    texts: dict[str, bytes]


def list_tars(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos in the tars below a root; what is wrong with a member or a tar is a reject.

    Raises:
        UsageError: no such folder, or no tar in it.
    """
    tars = _tars(root)
    videos: list[SourceVideo] = []
    for path, name in tars:
        if reject := reject_of(path, root):
            videos.append(SourceVideo(path, name, reject=reject))
        else:
            videos += _videos(path, name)
    said = {name: split for _, name in tars if (split := _split_of(name))}
    splits = {} if said else hashed_splits([video.source for video in videos], config.test_fraction)
    tar_of = dict(tars)
    names = sorted({video.class_name for video in videos if video.class_name is not None})
    numbered = all(name.isdecimal() for name in names)
    return [
        video._replace(
            split=splits.get(video.source) or said.get(tar_of[video.path], "train"),
            label=_label(video.class_name, names, numbered),
        )
        for video in videos
    ]


def _tars(root: Path) -> list[tuple[Path, str]]:
    if not root.is_dir():
        raise UsageError("no such folder of tars", at=str(root), hint="set data.root to the folder that holds them")
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder) / name for name in files if name.endswith(".tar") and not name.startswith(".")]
    if not found:
        raise UsageError("no tars in this folder", at=str(root), hint="files ending in .tar are read; unzip .tar.gz")
    named = [(path, os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")) for path in found]
    return sorted(named, key=lambda tar: natural(tar[1]))


def _split_of(name: str) -> str | None:
    path = PurePosixPath(name)
    words = [*path.parts[:-1][:1], *re.split(r"[-_.]", path.stem)]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _label(class_name: str | None, names: list[str], numbered: bool) -> int | None:
    if class_name is None:
        return None
    return int(class_name) if numbered else names.index(class_name)


def _videos(path: Path, name: str) -> list[SourceVideo]:
    samples: dict[str, _Sample] = {}
    videos: list[SourceVideo] = []
    try:
        for member in scan_tar(path):
            key, kind = _key(member.name)
            sample = samples.setdefault(key, _Sample([], {}))
            if member.text is None:
                sample.videos.append(member)
            else:
                sample.texts[kind] = member.text
    except VideoError as error:
        videos.append(SourceVideo(path, name, reject=(error.reason, error.detail)))
    for sample in samples.values():
        videos += [_video(path, name, member, sample.texts) for member in sample.videos]
    return videos


def _key(member: str) -> tuple[str, str]:
    folder, slash, file = member.rpartition("/")
    stem, _, kind = file.partition(".")
    return folder + slash + stem, kind.lower()


def _video(path: Path, name: str, member: Member, texts: dict[str, bytes]) -> SourceVideo:
    reject = member.reject
    try:
        caption = _caption(texts)
        class_name = texts["cls"].decode("utf-8").strip() if "cls" in texts else None
    except (ValueError, RecursionError):
        caption = class_name = None
        reject = reject or ("corrupt", "its .txt, .json or .cls cannot be read")
    item = f"{member.name}@{member.offset}"
    return SourceVideo(
        path,
        source_name(name, item),
        class_name=class_name,
        caption=caption,
        reject=reject,
        medium="tar",
        item=item,
    )


def _caption(texts: dict[str, bytes]) -> str | None:
    if "txt" in texts:
        return texts["txt"].decode("utf-8").strip()
    facts = json.loads(texts["json"]) if "json" in texts else None
    if not isinstance(facts, dict):
        return None
    found = facts.get("caption", facts.get("text"))
    return found if isinstance(found, str) else None
