"""Videos that lie as images: a folder a video (TATS's --image_folder), or lists of images (MeBT).

`list_frames`: every folder below the root that holds images is a video, its frames in the order of their numbers.
Unlike TATS, which reads both splits as one, a first folder train/, test/ or val/ is the split.

`list_frame_lists`: train.txt, test.txt, val.txt name the images, [VIDEO_ID]_[FRAME].ext, one a line, absolute or
relative to the list. Other than in MeBT the order of the lines and missing zeros before the numbers do not matter, and
the last video counts. As there, a gap in the numbers starts a new video.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from vtok.datasets.base import SourceVideo, name_below, natural, reject_of, source_name
from vtok.datasets.folder import SPLITS, hashed_splits
from vtok.datasets.lists import TEXT_HINT, reason
from vtok.video.media.images import IMAGES, expand_run, is_image, next_name, split_name


class FrameFolder(NamedTuple):
    """A folder with images, or a link to a folder.

    Attributes:
        path: where it is.
        name: its path below the root.
        reject: (reason, detail) if it must not be used.
    """

    path: Path
    name: str
    reject: tuple[str, str] | None


def find_frame_folders(root: Path) -> list[FrameFolder]:
    """Every folder that holds images, the root included, in natural order; hidden ones are left out.

    Raises:
        UsageError: no such folder, or no images below it.
    """
    if not root.is_dir():
        raise UsageError("no such folder of images", at=str(root), hint="set data.root to the folder that holds them")
    real = Path(os.path.realpath(root))
    found = [FrameFolder(path, name_below(path, root), reject) for path, reject in _walk(root, root, real)]
    if not found:
        known = " ".join(IMAGES)
        raise UsageError("no images in this folder", at=str(root), hint=f"files ending in {known} count as frames")
    return sorted(found, key=lambda folder: natural(folder.name))


def _walk(folder: Path, root: Path, real: Path) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
    except OSError as error:
        yield folder, ("unreadable", f"the folder cannot be read: {error.strerror}")
        return
    images = [entry for entry in entries if is_image(entry.name) and not entry.is_dir(follow_symlinks=False)]
    if images:
        leaving = next((name_below(Path(entry.path), folder) for entry in images if _leaves(entry, real)), None)
        reject = reject_of(folder, root)
        if reject is None and leaving is not None:
            reject = "unsafe_path", f"{leaving} is a link that leaves the root"
        yield folder, reject
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink() and path.is_dir():
            yield path, reject_of(path, root)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root, real)


def _leaves(entry: os.DirEntry[str], real_root: Path) -> bool:
    """Whether a file is a link to somewhere outside of the root."""
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_root)


def list_frames(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The folders of images below a root, as videos.

    - A first folder named train, test, val or validation is the split; without such folders, a hash of the video's
      path decides, as for `folder`.
    - The folder that a video's folder lies in, below that, is its class; if some have none, nobody has.

    Raises:
        UsageError: no such folder, or no images below it.
    """
    folders = find_frame_folders(root)
    places = {folder.name: _place(folder.name) for folder in folders}
    if all(split is None for split, _ in places.values()):
        splits = hashed_splits([folder.name for folder in folders], config.test_fraction)
    else:
        splits = {name: split or "train" for name, (split, _) in places.items()}
    classes = {places[folder.name][1] for folder in folders if folder.reject is None}
    names = sorted(name for name in classes if name is not None) if None not in classes else []
    labels = {name: label for label, name in enumerate(names)}
    videos = []
    for folder in folders:
        class_name = places[folder.name][1]
        label = labels.get(class_name) if class_name is not None else None
        videos.append(
            SourceVideo(
                folder.path,
                folder.name,
                splits[folder.name],
                label,
                class_name if label is not None else None,
                reject=folder.reject,
                medium="frames",
            )
        )
    return videos


def _place(name: str) -> tuple[str | None, str | None]:
    """(split, class) that a folder's path says; None where it says nothing."""
    parts = list(PurePath(name).parts)
    split = parts.pop(0) if parts and parts[0] in SPLITS else None
    return "val" if split == "validation" else split, parts[-2] if len(parts) > 1 else None


def list_frame_lists(root: Path, config: DataConfig) -> list[SourceVideo]:
    """The runs of images that the lists name.

    Raises:
        UsageError: no list in the folder, a line that names no image, or an image in two lists.
    """
    lists = [(split, root / f"{split}.txt") for split in SPLITS if (root / f"{split}.txt").is_file()]
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
            videos.append(guard.video(first, last, images[first], "val" if split == "validation" else split))
    return videos


def _read(path: Path) -> dict[Path, str]:
    """The images of a list, each once, without `..` in their paths; and how the list names them.

    Raises:
        UsageError: it cannot be read, or a line names no image.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
        if not self._links_out(folder).isdisjoint(expand_run(item)):
            reject = "unsafe_path", "an image is a link that leaves the root"
        return SourceVideo(self._root / name, source_name(name, item), split, reject=reject, medium="frames", item=item)

    def _links_out(self, folder: Path) -> frozenset[str]:
        """The files of a folder that are links to somewhere outside of the root."""
        if folder not in self._leaving:
            self._leaving[folder] = frozenset()
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    self._leaving[folder] = frozenset(e.name for e in entries if _leaves(e, self._real_root))
        return self._leaving[folder]
