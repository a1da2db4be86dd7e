"""Is a dataset's tree complete and sound? Counts against the published ones, split rules, files that cannot be used."""

from __future__ import annotations

import contextlib
import queue
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from schemas.config.data import DataConfig
from vtok import console
from vtok.datasets import LAYOUTS
from vtok.datasets.base import SourceVideo
from vtok.datasets.catalogue import UCF101_LISTS, Dataset
from vtok.hardware import cpu_count
from vtok.video.child import DecodeChild
from vtok.video.clips import plan_clips
from vtok.video.errors import VideoError

OK, WARN, FAIL = "OK", "WARN", "FAIL"
_SHOWN = 5  # examples in a finding
_PROBE_SECONDS = 20.0
_AT_ONCE = 256  # videos in hand; an interruption waits for no more
_GROUP = re.compile(r"^v_\w+_(g\d\d)_c\d\d$")  # UCF-101: clips of a group are cut from the same recording


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        level: OK, WARN (it can be used, but not as published) or FAIL.
        detail: what was found.
        hint: what to do about it; empty if nothing.
        examples: the first few sources that it is about.
    """

    name: str
    level: str
    detail: str
    hint: str = ""
    examples: tuple[str, ...] = ()


def examine(dataset: Dataset, config: DataConfig, *, probe: bool = True) -> list[Finding]:
    """Looks at the tree below `config.root`.

    Args:
        dataset: what it should be.
        config: layout, and the clip plan that videos must be long enough for.
        probe: open every video; without it only names and lists are looked at.

    Raises:
        UsageError: no such folder, nothing in it, or the lists that the layout needs are missing.
    """
    if config.split_list > 1:  # UCF-101's other official splits have other sizes
        train, test = UCF101_LISTS[config.split_list]
        dataset = dataset._replace(videos={"train": train, "test": test})
    videos = LAYOUTS[config.layout](Path(config.root), config)
    findings = [*_counts(dataset, videos), _classes(dataset, videos), *_listed(videos), _twice(videos)]
    if config.layout == "ucf101":
        findings.append(_leakage(videos))
    if probe:
        findings += _probed([video for video in videos if video.reject is None], config)
    return [finding for finding in findings if finding is not None]


def _counts(dataset: Dataset, videos: list[SourceVideo]) -> list[Finding]:
    there = Counter(video.split for video in videos if video.reject is None)
    if not dataset.videos:
        listed = ", ".join(f"{split} {number:,}" for split, number in sorted(there.items()))
        return [Finding("videos", OK, f"{listed} (no published numbers to compare with)")]
    findings = []
    for split, wanted in dataset.videos.items():
        found = there.get(split, 0)
        detail = f"{found:,} of {wanted:,} published"
        if found == wanted:
            findings.append(Finding(f"videos {split}", OK, detail))
        elif found == 0:
            findings.append(Finding(f"videos {split}", FAIL, detail, f"is all of it there? {dataset.get}"))
        else:
            what = "some are missing" if found < wanted else "there are more than published"
            findings.append(Finding(f"videos {split}", WARN, f"{detail}: {what}", f"compare with {dataset.page}"))
    return findings


def _classes(dataset: Dataset, videos: list[SourceVideo]) -> Finding | None:
    if not dataset.classes:
        return None
    found = {video.class_name for video in videos if video.label is not None}
    detail = f"{len(found)} of {dataset.classes} classes have videos"
    if len(found) == dataset.classes:
        return Finding("classes", OK, detail)
    return Finding("classes", WARN, detail, f"compare with {dataset.page}")


_HINTS = {
    "missing": "the lists name videos that are not here: download them, or go on without; they are counted as rejects",
    "not_in_split": "these files are in no split list: they are left out",
    "unsafe_path": "these are links that leave the folder: copy the files into it",
}


def _listed(videos: list[SourceVideo]) -> Iterable[Finding]:
    """What the layout itself cannot use."""
    reasons: dict[str, list[str]] = {}
    for video in videos:
        if video.reject is not None:
            reasons.setdefault(video.reject[0], []).append(video.source)
    for reason, sources in sorted(reasons.items()):
        hint = _HINTS.get(reason, "see `vtok data rejects why` after ingest")
        yield Finding(reason, WARN, console.count(len(sources), "videos"), hint, tuple(sources[:_SHOWN]))


def _twice(videos: list[SourceVideo]) -> Finding | None:
    """The same video file in two places, by name: in train and test it would leak."""
    places: dict[str, list[SourceVideo]] = {}
    for video in videos:
        if video.reject is None and video.item is None and video.medium is None:
            places.setdefault(f"{video.class_name}/{PurePosixPath(video.source).name}", []).append(video)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    if not twice:
        return None
    across = {name: found for name, found in twice.items() if len({video.split for video in found}) > 1}
    detail = f"{console.count(len(twice), 'names')} occur more than once, {len(across)} of them in several splits"
    examples = tuple(video.source for found in (across or twice).values() for video in found)[:_SHOWN]
    return Finding("names", FAIL if across else WARN, detail, "delete the copies", examples)


def _leakage(videos: list[SourceVideo]) -> Finding:
    """UCF-101's rule: the clips of a group (one recording) are all in train or all in test."""
    splits: dict[tuple[str | None, str], set[str]] = {}
    members: dict[tuple[str | None, str], list[str]] = {}
    for video in videos:
        group = _GROUP.match(PurePosixPath(video.source).stem)
        if group and video.reject is None:
            key = (video.class_name, group[1])
            splits.setdefault(key, set()).add(video.split)
            members.setdefault(key, []).append(video.source)
    torn = [key for key, found in splits.items() if len(found) > 1]
    if not torn:
        return Finding("groups", OK, f"{console.count(len(splits), 'groups')}, none in both train and test")
    hint = "clips of one recording are in train and in test: restore the official lists"
    examples = tuple(source for key in torn for source in members[key])[:_SHOWN]
    return Finding("groups", FAIL, f"{len(torn)} of {len(splits)} groups are in both train and test", hint, examples)


_PROBE_HINTS: dict[str, tuple[str, str]] = {
    "too_short": (WARN, "too short for one clip: lower num_frames or frame_stride, or go on without them"),
    "empty": (FAIL, "0 bytes: an interrupted download; get the files again"),
    "unreadable": (FAIL, "no video, or permission denied; get the files again"),
    "corrupt": (FAIL, "damaged; get the files again"),
}


def _probed(videos: list[SourceVideo], config: DataConfig) -> list[Finding]:
    """Opens every video, in as many decoding children as there are cores, and plans its clips."""
    bad: dict[str, list[str]] = {}
    clips = 0
    idle: queue.SimpleQueue[DecodeChild] = queue.SimpleQueue()

    def look(video: SourceVideo) -> int | VideoError:
        child = idle.get()
        try:
            return _plan(child, video, config)
        except VideoError as error:
            return error
        finally:
            idle.put(child)

    with contextlib.ExitStack() as stack:
        for _ in range(cpu_count()):
            idle.put(stack.enter_context(DecodeChild()))
        bar = stack.enter_context(console.Progress("doctor", len(videos), "videos"))
        threads = stack.enter_context(ThreadPoolExecutor(cpu_count()))
        for start in range(0, len(videos), _AT_ONCE):  # bounds what waits, also where there are a million videos
            some = videos[start : start + _AT_ONCE]
            for video, found in zip(some, threads.map(look, some), strict=True):
                if isinstance(found, VideoError):
                    bad.setdefault(found.reason, []).append(f"{video.source}: {found.detail}")
                else:
                    clips += found
                bar.advance(1)
    findings = []
    for reason, sources in sorted(bad.items()):
        level, hint = _PROBE_HINTS.get(reason, (FAIL, "get the files again, or go on without them"))
        findings.append(Finding(reason, level, console.count(len(sources), "videos"), hint, tuple(sources[:_SHOWN])))
    good = len(videos) - sum(len(sources) for sources in bad.values())
    detail = f"{good:,} of {len(videos):,} can be opened and are long enough: {clips:,} clips"
    return [Finding("readable", OK if good else FAIL, detail), *findings]


def _plan(child: DecodeChild, video: SourceVideo, config: DataConfig) -> int:
    address = {"medium": video.medium, "item": video.item, "source_fps": video.fps or config.source_fps}
    facts, _ = child.probe(str(video.path), cpu_seconds=_PROBE_SECONDS, source=address)
    return len(plan_clips(facts, config, video.span))
