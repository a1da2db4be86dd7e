"""Videos in tars, as WebDataset (https://github.com/webdataset/webdataset) lays them out.

A sample is the members whose names are equal up to the first dot of the file name: a video (`key.mp4`), its caption
(`key.txt`, or `caption` or `text` of `key.json`) and its class (`key.cls`, a number or a name; a number below 0 is
none). A key that occurs twice is two samples, each with the texts beside its video. Tars are read where they lie. The
split is that of a folder above the tar, of a word of the tar's name (`train-00000.tar`), or of a folder in the tar;
words are understood in any usual spelling (`vtok.datasets.splits`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok import console
from vtok.datasets.base import SourceVideo, find_files, reject_of, source_name
from vtok.datasets.captions import captions_of
from vtok.datasets.folder import place_sound, splits_of
from vtok.datasets.splits import Folders, splits_in
from vtok.video.errors import VideoError
from vtok.video.media.tar import Member, scan_tar

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
_MOST_CLASSES = 1_000_000


class _Sample(NamedTuple):
    """Members beside each other with one key."""

    key: str
    videos: list[Member]
    texts: dict[str, bytes]


class _Odd(NamedTuple):
    """What is said in a note, once for all tars."""

    others: Counter[str]
    twice: list[str]
    alone: list[str]


def list_tars(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The videos in the tars below a root; what is wrong with a member or a tar is a reject.

    Raises:
        UsageError: no such folder, no tar in it, or names that can be read as two splits.
    """
    tars = find_files(root, (".tar", *COMPRESSED), "tars")
    if not any(name.lower().endswith(".tar") for _, name in tars):
        raise UsageError("no tars in this folder", at=str(root), hint="files ending in .tar are read; unzip .tar.gz")
    videos: list[SourceVideo] = []
    odd = _Odd(Counter(), [], [])
    for path, name in tars:
        if reject := reject_of(path, root):
            videos.append(SourceVideo(path, name, reject=reject))
        elif name.lower().endswith(COMPRESSED):
            packed = ("unreadable", "a compressed tar, in which nothing can be found: unpack it to a .tar")
            videos.append(SourceVideo(path, name, reject=packed))
        else:
            videos += _videos(path, name, odd)
    _say(odd)
    above = [(video.source, _folders(root, video), video.reject) for video in videos]
    places = place_sound(root, above)
    splits = splits_of(places, config.test_fraction)
    return _labelled(
        video._replace(split=splits[video.source], reject=video.reject or places[video.source].reject)
        for video in videos
    )


def _folders(root: Path, video: SourceVideo) -> Folders:
    """The folders that may say a split: those of the tar, the split that its name says, those in the tar."""
    tar = PurePosixPath(video.source if video.item is None else video.source.removesuffix(f"#{video.item}"))
    said = splits_in(tar.stem)
    if len(said) > 1:
        raise UsageError(
            f"the name of a tar says two splits: {' and '.join(sorted(said))}",
            at=str(root / tar),
            hint="give it the name of one split, or one of none",
        )
    inside = PurePosixPath((video.item or "").rpartition("@")[0]).parts[:-1]
    return (*tar.parts[:-1], *said, *inside)


def _labelled(videos: Iterable[SourceVideo]) -> list[SourceVideo]:
    """Classes become labels: numbers are theirs already, names are counted in alphabetical order."""
    listed = list(videos)
    given = [video.class_name for video in listed if video.class_name]
    numbers = [name for name in given if _NUMBER.fullmatch(name)]
    names = sorted(set(given))
    if 2 * len(numbers) <= len(given):
        if numbers:
            alike = console.some(sorted(set(numbers)))
            console.note(f"note: classes that look like numbers are names, as most are: {alike}")
        labels = {name: label for label, name in enumerate(names)}
        return [v._replace(label=labels.get(v.class_name or ""), class_name=v.class_name or None) for v in listed]
    if below := sum(name.startswith("-") and int(float(name)) < 0 for name in numbers):
        console.note(f"note: {console.count(below, 'videos')} with a class below 0, so without label")
    return [_numbered(video) for video in listed]


def _numbered(video: SourceVideo) -> SourceVideo:
    name = video.class_name
    if not name:
        return video._replace(class_name=None)
    found = _NUMBER.fullmatch(name)
    number = int(found[1]) if found else _MOST_CLASSES
    if number < 0:
        return video._replace(class_name=None)
    if number >= _MOST_CLASSES:
        wrong = f"{name[:40]!r} is no class: the others are numbers below {_MOST_CLASSES:,}"
        return video._replace(class_name=None, reject=video.reject or ("corrupt", wrong))
    return video._replace(class_name=str(number), label=number)


def _videos(path: Path, name: str, odd: _Odd) -> list[SourceVideo]:
    samples: list[_Sample] = []
    videos: list[SourceVideo] = []
    kinds: set[str] = set()
    try:
        for member in scan_tar(path, odd.others):
            key, kind = _key(member.name)
            if not samples or samples[-1].key != key or kind in kinds:
                samples.append(_Sample(key, [], {}))
                kinds = set()
            kinds.add(kind)
            if member.text is None:
                samples[-1].videos.append(member)
            else:
                samples[-1].texts[kind] = member.text
    except VideoError as error:
        videos.append(SourceVideo(path, name, reject=(error.reason, error.detail)))
    by_key: dict[str, list[_Sample]] = {}
    for sample in samples:
        by_key.setdefault(sample.key, []).append(sample)
    for key, same in by_key.items():
        joined, unclear = _joined(same)
        odd.twice.extend([f"{name}#{key}"] * (len(joined) > 1))
        odd.alone.extend([f"{name}#{key}"] * (not any(sample.videos for sample in joined)))
        for sample in joined:
            videos += [_video(path, name, member, sample.texts, unclear) for member in sample.videos]
    return videos


def _joined(same: list[_Sample]) -> tuple[list[_Sample], bool]:
    """The samples of a key, and whether it is unclear which of its texts belong to which.

    Members that do not lie beside each other are one sample, if none of them is there twice.
    """
    kinds = [kind for sample in same for kind in (*(_key(video.name)[1] for video in sample.videos), *sample.texts)]
    if len(set(kinds)) == len(kinds):
        texts = {kind: text for sample in same for kind, text in sample.texts.items()}
        return [_Sample(same[0].key, [video for sample in same for video in sample.videos], texts)], False
    return same, any(not sample.videos for sample in same)


def _say(odd: _Odd) -> None:
    if odd.others:
        kinds = ", ".join(f"{number:,} {kind or 'without ending'}" for kind, number in odd.others.most_common(5))
        console.note(f"note: {console.count(odd.others.total(), 'members')} of tars that are no videos: {kinds}")
    if odd.twice:
        what = "more than once in a tar, a sample each time"
        console.note(f"note: {console.count(len(odd.twice), 'keys')} {what}: {console.some(odd.twice)}")
    if odd.alone:
        count = console.count(len(odd.alone), "keys")
        console.note(f"note: {count} with texts but no video: {console.some(odd.alone)}")


def _key(member: str) -> tuple[str, str]:
    folder, slash, file = member.rpartition("/")
    stem, _, kind = file.partition(".")
    return folder + slash + stem, kind.lower()


def _video(path: Path, name: str, member: Member, texts: dict[str, bytes], unclear: bool) -> SourceVideo:
    reject = member.reject
    own = _key(member.name)[1].rpartition(".")[0]  # of clip.01.mp4: its text may be clip.01.txt or clip.txt

    def text(kind: str) -> bytes | None:
        return texts.get(f"{own}.{kind}", texts.get(kind))

    caption = class_name = None
    try:
        caption = _caption(text("txt"), text("json"))
        class_name = _decoded(text("cls") or b"").strip()
    except (ValueError, RecursionError):
        reject = reject or ("corrupt", "its .txt, .json or .cls cannot be read")
    if unclear:
        reject = reject or ("corrupt", "its key is in the tar twice, and which of the texts are its own is unclear")
    return SourceVideo(
        path,
        source_name(name, member.item),
        class_name=class_name,
        caption=caption,
        reject=reject,
        medium="tar",
        item=member.item,
    )


def _decoded(block: bytes) -> str:
    """UTF-8, with or without a byte order mark, or UTF-16 with one."""
    return block.decode("utf-16" if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def _caption(text: bytes | None, facts: bytes | None) -> str | None:
    if text is not None:
        return _decoded(text).strip()
    held = json.loads(_decoded(facts)) if facts is not None else None
    found = captions_of(held) if isinstance(held, dict) else []
    return found[0] if found else None
