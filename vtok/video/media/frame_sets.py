"""Which images of a folder are the frames of one video, in which order, and which are none.

Frames are images with a number, the last one of their stem. Images whose names differ in more than numbers, and that
have the same numbers (rgb_000.png and depth_000.png, 000.jpg and 000.png), are several videos, an item each; so are
cam1_000.png and cam2_000.png. If no number occurs twice, all are one video, as for TATS: a_1, b_2, c_3. Images without
a number beside images with one (thumbnail.jpg) are no frames. A number may have a fraction (frame_0.5, frame_1.25); in
shot1.0007, where the digits after the point only count up, it is a plain number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from vtok.video.media.images import FrameName, frame_key, split_name

_WHOLE = re.compile(r"(.*?)([0-9]{1,18})\.", re.DOTALL)
_COUNTER = 3  # digits; fewer after a point are no counter


class FrameSets(NamedTuple):
    """The videos in a folder of images.

    Attributes:
        videos: from each video's item to its frames in order; the item of a folder's only video is None.
        others: images that are no frames.
    """

    videos: dict[str | None, list[str]]
    others: list[str]


class _Frame(NamedTuple):
    name: str
    before: str
    number: Fraction
    after: str


def frame_sets(names: Iterable[str]) -> FrameSets:
    """Sorts the names of a folder's images into videos."""
    ordered = sorted(names, key=frame_key)
    numbered = {name: split for name in ordered if (split := split_name(name)).number >= 0}
    plain = [name for name in ordered if name not in numbered]
    if len(plain) >= len(numbered):
        return FrameSets({None: ordered} if ordered else {}, [])
    frames = _with_fractions(numbered)
    first = {(_trimmed(frame.before), frame.after): frame.before for frame in frames}
    others = []
    for name in plain:  # frame.png before frame1.png is a frame, thumbnail.jpg is none
        split = split_name(name)
        key = _trimmed(split.before), _ending(split.after)
        if key in first:
            frames.append(_Frame(name, first[key], Fraction(-1), key[1]))
        else:
            others.append(name)
    groups = _groups(frames)
    if len(groups) == 1 or _one_video(groups.values()):
        return FrameSets({None: _in_order(frames)}, others)
    return FrameSets({item: _in_order(group) for item, group in groups.items()}, others)


def _groups(frames: Iterable[_Frame]) -> dict[str, list[_Frame]]:
    """Frames whose names differ in numbers only; where a number occurs twice, those with otherwise equal names."""
    alike: dict[tuple[str, str], list[_Frame]] = {}
    for frame in frames:
        alike.setdefault((re.sub("[0-9]+", "#", frame.before), frame.after), []).append(frame)
    groups: dict[str, list[_Frame]] = {}
    for (before, after), group in alike.items():
        if len({frame.before for frame in group}) == 1:
            groups[f"{group[0].before}*{after}"] = group
        elif len({frame.number for frame in group}) == len(group):
            groups[f"{before}*{after}"] = group
        else:
            for frame in group:
                groups.setdefault(f"{frame.before}*{after}", []).append(frame)
    return groups


def _one_video(groups: Iterable[list[_Frame]]) -> bool:
    """No number occurs twice, and no single image of another name (cover_500.jpg) stands beside most of the frames."""
    listed = sorted(groups, key=len)
    total = sum(len(group) for group in listed)
    if len({frame.number for group in listed for frame in group}) < total:
        return False
    befores = {frame.before for frame in listed[-1]}
    alone = any(len(group) == 1 and group[0].before not in befores for group in listed[:-1])
    return not (alone and len(listed[-1]) > max(1, total // 2))


def _in_order(frames: Iterable[_Frame]) -> list[str]:
    return [frame.name for frame in sorted(frames, key=lambda frame: (frame.number, frame_key(frame.name)))]


def _with_fractions(names: Mapping[str, FrameName]) -> list[_Frame]:
    """The frames with their numbers, of which a part before a point is the whole part where that makes sense."""
    frames: list[_Frame] = []
    pointed: dict[tuple[str, str], list[tuple[_Frame, int, str]]] = {}
    for name, split in names.items():
        after = _ending(split.after)
        frame = _Frame(name, split.before, Fraction(split.number), after)
        found = _WHOLE.fullmatch(split.before)
        if found and not found[1].endswith("."):
            pointed.setdefault((found[1], after), []).append((frame, int(found[2]), split.digits))
        else:
            frames.append(frame)
    for (before, _), parts in pointed.items():
        if _are_fractions([(whole, digits) for _, whole, digits in parts]):
            frames += [
                frame._replace(before=before, number=whole + Fraction(int(digits), 10 ** len(digits)))
                for frame, whole, digits in parts
            ]
        else:
            frames += [frame for frame, _, _ in parts]
    return frames


def _are_fractions(parts: list[tuple[int, str]]) -> bool:
    wholes: dict[int, list[str]] = {}
    for whole, digits in parts:
        wholes.setdefault(whole, []).append(digits)
    if len(wholes) == 1 and 0 not in wholes:
        return False  # v1.9, v1.10: a version, and a count
    widths = {len(digits) for _, digits in parts}
    steps = {
        int(b) - int(a) for same in wholes.values() for a, b in zip(sorted(same)[:-1], sorted(same)[1:], strict=True)
    }
    return not (len(widths) == 1 and min(widths) >= _COUNTER and steps == {1})


def _trimmed(before: str) -> str:
    return before.rstrip("_-. (")


def _ending(after: str) -> str:
    return after.lower().replace(".jpeg", ".jpg")
