"""Videos that lie as images: a folder a video (TATS's --image_folder), or lists of images (MeBT).

`list_frames`: every folder below the root that holds images is a video, its frames in the order of their numbers; or
several, if it holds several kinds of frames with the same numbers (`vtok.video.media.frame_sets`). Unlike TATS, which
reads both splits as one, folders train/, test/ or val/ are the splits (`vtok.datasets.splits`).

`list_frame_lists`: train.txt, test.txt, val.txt (in any usual spelling) name the images, [VIDEO_ID]_[FRAME].ext, one a
line, absolute or relative to the list. Other than in MeBT the order of the lines and missing zeros before the numbers
do not matter, and the last video counts. As there, a gap in the numbers starts a new video.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok import console
from vtok.datasets.base import SourceVideo, name_below, natural, reject_of, source_name, source_path, utf8
from vtok.datasets.folder import place_sound, splits_of
from vtok.datasets.lists import TEXT_HINT, reason
from vtok.datasets.splits import Place, note_unlabelled, split_word
from vtok.video.media.frame_sets import frame_sets
from vtok.video.media.images import IMAGES, expand_run, is_image, next_name, split_name


class FrameFolder(NamedTuple):
    """A folder with images, or a link to a folder.

    Attributes:
        path: where it is.
        name: its path below the root.
        reject: (reason, detail) if it must not be used.
        images: the names of its images, in no order; empty if it must not be used.
    """

    path: Path
    name: str
    reject: tuple[str, str] | None
    images: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders from the root down to this one, itself included."""
        return PurePath(self.name).parts


def find_frame_folders(root: Path, *, required: bool = True) -> list[FrameFolder]:
    """Every folder that holds images, the root included, in natural order; hidden ones are left out.

    Raises:
        UsageError: no such folder, or, if any are `required`, no images below it.
    """
    if not root.is_dir():
        raise UsageError("no such folder of images", at=str(root), hint="set data.root to the folder that holds them")
    real = Path(os.path.realpath(root))
    found = list(_walk(root, root, real))
    if required and not found:
        known = " ".join(IMAGES)
        raise UsageError("no images in this folder", at=str(root), hint=f"files ending in {known} count as frames")
    return sorted(found, key=lambda folder: natural(folder.name))


def _walk(folder: Path, root: Path, real: Path) -> Iterator[FrameFolder]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
    except OSError as error:
        yield FrameFolder(
            folder, name_below(folder, root), ("unreadable", f"the folder cannot be read: {error.strerror}")
        )
        return
    images = [entry for entry in entries if is_image(entry.name) and not entry.is_dir(follow_symlinks=False)]
    if images:
        leaving = next((name_below(Path(entry.path), folder) for entry in images if _leaves(entry, real)), None)
        reject = reject_of(folder, root)
        if reject is None and leaving is not None:
            reject = "unsafe_path", f"{leaving} is a link that leaves the root"
        names = tuple(entry.name for entry in images) if reject is None else ()
        yield FrameFolder(folder, name_below(folder, root), reject, names)
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink() and path.is_dir():
            yield FrameFolder(path, name_below(path, root), reject_of(path, root))
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root, real)


def _leaves(entry: os.DirEntry[str], real_root: Path) -> bool:
    """Whether a file is a link to somewhere outside of the root."""
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_root)


def list_frames(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The folders of images below a root, as videos.

    - A folder named train, test or val, in any usual spelling, is the split; without such folders, a hash of the
      video's path decides, as for `folder`.
    - The folder that a video's folder lies in, if it is no split folder, is its class; if some have none, nobody has.

    Raises:
        UsageError: no such folder, no images below it, or a tree that can be read in two ways.
    """
    folders = find_frame_folders(root)
    places = place_sound(root, [(folder.name, _above(folder), folder.reject) for folder in folders])
    videos = frame_videos(folders)
    split_of = _splits(folders, videos, places, config)
    classes = [
        places[folder.name].class_name for folder in folders if (folder.reject or places[folder.name].reject) is None
    ]
    names = sorted({name for name in classes if name is not None}) if None not in classes else []
    note_unlabelled(classes)
    labels = {name: label for label, name in enumerate(names)}
    return [
        video._replace(
            split=split_of[video.source],
            label=labels.get(spot.class_name or ""),
            class_name=spot.class_name if spot.class_name in labels else None,
            reject=video.reject or spot.reject,
        )
        for video in videos
        for spot in (places[source_path(video.source, video.item)],)
    ]


def _above(folder: FrameFolder) -> tuple[str, ...]:
    """The folders that may say a video's split and class: those above its own, or that, too, if it is a split's."""
    return folder.parts if folder.parts and split_word(folder.parts[-1]) else folder.parts[:-1]


def _splits(
    folders: list[FrameFolder], videos: list[SourceVideo], places: dict[str, Place], config: DataConfig
) -> dict[str, str]:
    """From each video's source to its split; the videos of a folder are of one split."""
    by_folder = splits_of({folder.name: places[folder.name] for folder in folders}, config.test_fraction)
    return {video.source: by_folder[source_path(video.source, video.item)] for video in videos}


def frame_videos(folders: Iterable[FrameFolder]) -> list[SourceVideo]:
    """The videos of the folders, usually one each; without split, class or label. What is unusual is said in a note."""
    videos, several, others = [], [], []
    for folder in folders:
        if folder.reject is not None:
            videos.append(SourceVideo(folder.path, folder.name, reject=folder.reject, medium="frames"))
            continue
        sets = frame_sets(folder.images)
        items = [None if item is None else utf8(item) for item in sets.videos]
        videos += [SourceVideo(folder.path, source_name(folder.name, i), medium="frames", item=i) for i in items]
        several += [source_name(folder.name, item) for item in items if len(items) > 1]
        others += [f"{folder.name}/{utf8(name)}" for name in sets.others]
    if several:
        console.note(f"note: frames with the same numbers in one folder are several videos: {console.some(several)}")
    if others:
        console.note(f"note: images without a number, beside others with one, are no frames: {console.some(others)}")
    return videos


def list_frame_lists(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The runs of images that the lists name.

    Raises:
        UsageError: no list in the folder, a line that names no image, an image in two lists, or none of the images is
            there.
    """
    lists = _lists(root)
    if not lists:
        raise UsageError(
            "no lists of images in this folder",
            at=str(root),
            hint="train.txt and test.txt must name the images, one path a line, absolute or relative to the list",
        )
    seen: dict[Path, str] = {}
    guard = _Guard(root)
    videos: list[SourceVideo] = []
    for split, path in lists:
        images: dict[Path, str] = {}
        for image, listed in _read(path).items():
            images.setdefault(guard.real(image), listed)
        if twice := images.keys() & seen.keys():
            image = min(twice)
            raise UsageError(
                f"{image.name} is named by {seen[image]} and by {path.name}",
                at=str(path),
                hint="an image belongs to one split: delete its line from one of the lists",
            )
        seen |= dict.fromkeys(images, path.name)
        for first, last in _runs(images):
            videos.append(guard.video(first, last, images[first], split))
    if videos and all(video.reject is not None and video.reject[0] == "missing" for video in videos):
        raise UsageError(
            f"none of the {len(videos)} videos that the lists name is there",
            at=str(root),
            hint="the lists name images by paths that are absolute or relative to the list",
        )
    return videos


def _lists(root: Path) -> list[tuple[str, Path]]:
    """The lists beside each other in the root, with their splits: train first, then test, then val."""
    if not root.is_dir():
        return []
    texts = sorted(path for path in root.iterdir() if path.suffix.lower() == ".txt" and path.is_file())
    named = [(split, path) for path in texts if (split := split_word(path.stem))]
    return sorted(named, key=lambda one: ("train", "test", "val").index(one[0]))


def _read(path: Path) -> dict[Path, str]:
    """The images of a list, each once, without `..` in their paths; and how the list names them.

    Raises:
        UsageError: it cannot be read, or a line names no image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list cannot be read: {reason(error)}", at=str(path), hint=TEXT_HINT) from None
    base = path.parent.absolute()
    images: dict[Path, str] = {}
    for number, line in enumerate(lines, 1):
        listed = line.strip()
        if listed and (not is_image(PurePath(listed).name) or "\0" in listed):
            known = " ".join(IMAGES)
            raise UsageError("a line names no image", at=f"{path}:{number}", hint=f"lines must end in one of {known}")
        if listed:
            images.setdefault(Path(os.path.normpath(base / listed)), listed)
    return images


def _runs(images: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """(first, last) of every run of consecutive numbers among names that are equal but for their number."""

    def order(path: Path) -> tuple[list[tuple[int, int, str]], str, int, str]:
        name = split_name(path.name)
        return natural(str(path.parent / f"{name.before}_")), name.after, name.number, path.name

    run: list[Path] = []
    for path in sorted(images, key=order):
        before = split_name(run[-1].name) if run else None
        follows = before is not None and before.number >= 0 and split_name(path.name) == next_name(before)
        if run and not (follows and path.parent == run[-1].parent):
            yield run[0], run[-1]
            run = []
        run.append(path)
    if run:
        yield run[0], run[-1]


class _Guard:
    """Keeps what lists name below the root, whatever links are in between; looks at every folder once."""

    def __init__(self, root: Path) -> None:
        self._root, self._real_root = root, Path(os.path.realpath(root))
        self._reals: dict[Path, Path] = {}
        self._leaving: dict[Path, frozenset[str]] = {}
        self._there: dict[Path, frozenset[str]] = {}

    def real(self, image: Path) -> Path:
        """An image's one path, where links to folders are followed; the image itself may be a link."""
        if image.parent not in self._reals:
            self._reals[image.parent] = Path(os.path.realpath(image.parent))
        return self._reals[image.parent] / image.name

    def video(self, first: Path, last: Path, listed: str, split: str) -> SourceVideo:
        """The video of a run of images by their real paths; `listed` is how the list names the first."""
        folder, item = first.parent, f"{first.name}..{last.name}"
        if not folder.is_relative_to(self._real_root):
            outside = "unsafe_path", "the list names images outside of data.root"
            return SourceVideo(folder, f"{listed}..{last.name}", split, reject=outside, medium="frames")
        name = folder.relative_to(self._real_root).as_posix()
        reject: tuple[str, str] | None = None
        images = expand_run(item)
        if not self._links_out(folder).isdisjoint(images):
            reject = "unsafe_path", "an image is a link that leaves the root"
        elif self._there[folder].isdisjoint(images):
            reject = "missing", "none of its images is there"
        return SourceVideo(self._root / name, source_name(name, item), split, reject=reject, medium="frames", item=item)

    def _links_out(self, folder: Path) -> frozenset[str]:
        """The files of a folder that are links to somewhere outside of the root."""
        if folder not in self._leaving:
            self._leaving[folder] = self._there[folder] = frozenset()
            if folder.is_dir():
                with os.scandir(folder) as scanned:
                    entries = list(scanned)
                self._leaving[folder] = frozenset(e.name for e in entries if _leaves(e, self._real_root))
                self._there[folder] = frozenset(e.name for e in entries)
        return self._leaving[folder]
