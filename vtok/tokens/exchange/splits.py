"""Which split a file of another tool belongs to, by its path; what cannot be told is refused, never guessed.

A row of the test split that lands among the training rows is seen by nobody. So a path that could mean two splits is an
error, and so is one that means none while others say theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from schemas.errors import UsageError

KNOWN = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout")
"""Names of splits that are understood where nothing lists the splits."""

_HINT = "name folders or files after their splits (train/..., test-00000...), or give --split NAME if all are of one"


class Splits(NamedTuple):
    """What is known of the splits beforehand.

    Attributes:
        listed: their names, from the export; None: nothing lists them.
        only: everything is of this one.
    """

    listed: tuple[str, ...] | None = None
    only: str | None = None


def by_split(folder: Path, pattern: str, splits: Splits) -> dict[str, list[Path]]:
    """The files of each split, in order of their names; hidden ones are left out.

    Files of a single folder may name no split, if nothing lists the splits and no file names one: all are `train`.

    Args:
        folder: where to look, with all that is below.
        pattern: of the files' names.
        splits: what is known.

    Raises:
        UsageError: a file's split cannot be told.
    """
    return _sorted(folder, visible(folder, pattern), splits)


def indices_by_split(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    """`by_split` of files `index.json`, without those that lie below another one of the same split.

    An index may be one of a whole tree, whose branches have theirs.
    """
    found = visible(folder, "index.json")
    said = {path.parent: _said(folder, path, splits) for path in found}
    own = [path for path in found if all(said.get(up, ...) != said[path.parent] for up in path.parent.parents)]
    return _sorted(folder, own, splits)


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder whose names fit a pattern, sorted; those with a hidden folder are left out."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _sorted(folder: Path, files: Iterable[Path], splits: Splits) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    nameless: list[Path] = []
    for path in files:
        split = _said(folder, path, splits)
        (nameless if split is None else found.setdefault(split, [])).append(path)
    if not nameless:
        return found
    if found or splits.listed is not None:
        listed = ", ".join(splits.listed or sorted(found))
        raise UsageError(f"a file names none of the splits ({listed})", at=str(nameless[0]), hint=_HINT)
    if len(places := sorted({path.parent.relative_to(folder).as_posix() for path in nameless})) > 1:
        raise UsageError(
            f"files lie in folders that name no split: {', '.join(places[:3])}", at=str(folder), hint=_HINT
        )
    return {"train": nameless}


def _said(folder: Path, path: Path, splits: Splits) -> str | None:
    """The split that a path names; None: none.

    A folder's whole name counts, and what the file's name begins with; where neither says anything, any word does.

    Raises:
        UsageError: it names two.
    """
    if splits.only is not None:
        return splits.only
    name = path.relative_to(folder).as_posix()
    names = KNOWN if splits.listed is None else splits.listed
    *folders, file = (name.lower() if splits.listed is None else name).split("/")
    first = max((split for split in names if _begins(file, split)), key=len, default=None)
    said = {part for part in folders if part in names} | ({first} if first else set())
    if not said and splits.listed is None:
        said = {word for part in (*folders, file) for word in re.findall("[a-z]+", part) if word in names}
    if len(said) > 1:
        raise UsageError(f"a file names two splits, {' and '.join(sorted(said))}", at=str(path), hint=_HINT)
    return said.pop() if said else None


def _begins(file: str, split: str) -> bool:
    """`train.tar`, `train-00000-of-00002.tar` and `train0.tar` begin with `train`; `trainer.tar` does not."""
    return file.startswith(split) and not file[len(split) : len(split) + 1].isalpha()
