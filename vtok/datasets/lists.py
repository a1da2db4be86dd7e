"""The lists that come with a dataset (CSV, JSON): finding them, reading them, and the files that they name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from schemas.errors import UsageError
from vtok import console
from vtok.datasets.base import SourceVideo, composed, find_videos, natural, reject_of, without_ending
from vtok.datasets.splits import split_word
from vtok.video.extensions import EXTENSIONS

Found = tuple[Path, str]

TEXT_HINT = "it must be there, readable, and UTF-8 text in the form that its name promises"


def reason(error: Exception) -> str:
    """An error in a few words, without the path, which has a line of its own."""
    return getattr(error, "strerror", None) or str(error)


def find_lists(
    root: Path,
    pattern: str | None,
    defaults: Sequence[str],
    what: str,
    wanted: Callable[[Path], bool] = Path.is_file,
) -> list[Path]:
    """The files that hold a dataset's lists.

    Args:
        root: of the dataset.
        pattern: `data.annotations`: a glob below the root; None: the defaults.
        defaults: globs below the root.
        what: what the lists are called, for the error.
        wanted: which of the files that the defaults find are lists.

    Raises:
        UsageError: there are none.
    """
    patterns = [pattern] if pattern else defaults
    if pattern and Path(pattern).is_absolute():
        raise UsageError("data.annotations is a glob below data.root", at=pattern, hint="leave out the root")
    found = {path for one in patterns for path in root.glob(one) if (pattern or wanted(path)) and path.is_file()}
    if not found:
        raise UsageError(
            f"{what} is not there ({', '.join(patterns)})",
            at=str(root),
            hint="put it below data.root, or name it with data.annotations",
        )
    return sorted(found)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises:
        UsageError: it cannot be read, or has not the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in columns if name not in (reader.fieldnames or [])]
            if lacking:
                raise UsageError(
                    f"the list has no column {' and no column '.join(lacking)}",
                    at=str(path),
                    hint="name the right lists with data.annotations",
                )
            return [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the list cannot be read: {reason(error)}", at=str(path), hint=TEXT_HINT) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UsageError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the list cannot be read: {reason(error)}", at=str(path), hint=TEXT_HINT) from None


def index_videos(root: Path) -> dict[str, list[Found]]:
    """The videos below a root by name without extension; none is no error.

    Raises:
        UsageError: no such folder.
    """
    index: dict[str, list[Found]] = {}
    for path, source in find_videos(root, required=False):
        index.setdefault(composed(PurePosixPath(source).stem), []).append((path, source))
    return index


def look_up(index: dict[str, list[Found]], name: str) -> list[Found] | None:
    """The files that a list means by a name, with or without extension: those of just this name, else of its stem."""
    found = index.get(composed(without_ending(name))) or index.get(composed(name))
    exact = [file for file in found or [] if composed(PurePosixPath(file[1]).name) == composed(name)]
    return exact or found


def note_converted(named: Iterable[tuple[str, str]]) -> None:
    """Says which files have another extension than in the list.

    Args:
        named: (the file's name in the list, its source) of the files that are there.
    """
    other = [
        f"{name} is {PurePosixPath(source).name}"
        for name, source in named
        if name.lower().endswith(EXTENSIONS) and PurePosixPath(name).suffix != PurePosixPath(source).suffix
    ]
    if other:
        count = console.count(len(other), "videos")
        console.note(f"note: {count} with another extension than in the list, found by the stem: {other[0]}")


def choose(found: Sequence[Found], *folders: str | None) -> Found:
    """Of files with one name, the one that lies in most of the folders.

    An underscore counts as a space, and any spelling of a split as the split.
    """
    if len(found) == 1:
        return found[0]
    wanted = {_plain(folder) for folder in folders if folder}
    return max(found, key=lambda file: len(wanted & {_plain(part) for part in PurePosixPath(file[1]).parts[:-1]}))


def _plain(name: str) -> str:
    return split_word(name) or composed(name).replace("_", " ")


def unlisted(index: dict[str, list[Found]], used: Iterable[Path], root: Path) -> list[SourceVideo]:
    """Rejects for the files that no list names, or that are not the one of their name that is used."""
    known = {str(path) for path in used}  # a text has its hash ready, a `Path` takes itself apart
    rejects = []
    for found in index.values():
        twin = any(str(path) in known for path, _ in found)
        why = ("not_in_split", "a file of the same name is the one that is used" if twin else "no list names this file")
        rejects += [
            SourceVideo(path, source, reject=reject_of(path, root) or why)
            for path, source in found
            if str(path) not in known
        ]
    return rejects


def in_order(videos: Iterable[SourceVideo], root: Path, hint: str) -> list[SourceVideo]:
    """The videos in natural order of their sources.

    Raises:
        UsageError: every video that the lists name is missing.
    """
    ordered = sorted(videos, key=lambda video: natural(video.source))
    reasons = {video.reject[0] if video.reject else None for video in ordered}
    if "missing" in reasons and reasons <= {"missing", "not_in_split"}:
        count = sum(video.reject is not None and video.reject[0] == "missing" for video in ordered)
        raise UsageError(f"none of the {count} videos that the lists name is there", at=str(root), hint=hint)
    return ordered
