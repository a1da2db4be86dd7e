"""Which split and class the folders above a video say: one set of rules for every layout.

A folder is a *split folder* if its whole name is a split's word (`WORDS`) in any case, with nothing besides but
numbers, signs and words such as `set` or `videos` (`NEUTRAL`): Train, TEST, train_videos, val2017, Test-Set. Siblings
that are alike but for such a word are splits, too: UCF101_train beside UCF101_test. They may lie at the top or below
other folders (MyData/train/..., cat/train/...).

What could be read in two ways is refused before anything is planned: two different splits above one video, and folders
of one split only beside videos that have none (is `train` a split, or a class of railways?). Videos in no split folder,
beside folders of several splits, are rejects, `not_in_split`: a video of the test set that lands in train is seen by
nobody. What is merely unusual is said in a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.errors import UsageError
from vtok import console

_SPELT = {
    "train": "train training trainset trainingset trn trainval",
    "val": "val valid validate validation valset validset validationset dev devel development devset eval evaluation "
    "evalset evaluationset",
    "test": "test testing tests testset testingset tst",
}
WORDS = {word: split for split, words in _SPELT.items() for word in words.split()}
"""From a word, in lower case, to the split that it means."""
_SILENT = (
    "set sets split splits data dataset video videos clip clips frame frames image images img file files folder part "
    "parts list lists subset partition"
)
NEUTRAL = frozenset(_SILENT.split())
"""Words beside a split's that say nothing."""

_TOKEN = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]|[0-9]+|[^\x00-\x7f]+")

Folders = tuple[str, ...]


class Place(NamedTuple):
    """What the folders above a video say.

    Attributes:
        split: its split; None: no folder of the whole tree names any.
        class_name: its class; None: none.
        reject: (reason, detail) if it is in no split while others are.
    """

    split: str | None
    class_name: str | None = None
    reject: tuple[str, str] | None = None


def split_word(name: str, neutral: Iterable[str] = ()) -> str | None:
    """The split that a whole name means, or None: `TRAIN`, `Test-Set`, `val2017`, but not `training dog`."""
    squeezed = re.sub(r"[\W_0-9]+", "", name).lower()
    if squeezed in WORDS:
        return WORDS[squeezed]
    words = [word for word in _tokens(name) if not word.isdecimal() and word not in NEUTRAL and word not in neutral]
    said = {WORDS.get(word) for word in words}
    return said.pop() if len(said) == 1 else None


def splits_in(name: str) -> set[str]:
    """The splits that any word of a name means: of `ucf-train-00001` and `kinetics_val`, but not of `latest`."""
    whole = split_word(name)
    return {whole} if whole else {WORDS[word] for word in _tokens(name) if word in WORDS}


def _tokens(name: str) -> list[str]:
    return [word.lower() for word in _TOKEN.findall(name)]


def place(
    folders: Sequence[Folders], root: Path, *, neutral: Iterable[str] = (), prescribed: bool = False
) -> list[Place]:
    """The places of videos whose folders, from the root down, are these.

    - The split is that of the one split folder above the video.
    - The class is the folder that holds the file, unless that is a split folder. If it is one, and several folders
      have splits of their own below them (cat/train, cat/test, dog/train), the class is the folder above.

    Args:
        folders: of each video.
        root: of the dataset, for errors.
        neutral: further words that say nothing beside a split's.
        prescribed: the layout has split folders always, so that one of them alone is no class.

    Raises:
        UsageError: the tree can be read in two ways.
    """
    distinct = list(dict.fromkeys(folders))
    words = _split_folders(distinct, frozenset(neutral))
    said = {one: [i for i in range(len(one)) if one[: i + 1] in words] for one in distinct}
    for one, at in said.items():
        if len({words[one[: i + 1]] for i in at}) > 1:
            raise UsageError(
                f"a path names two splits: {' and '.join(one[i] for i in at)}",
                at=str(root.joinpath(*one)),
                hint="set data.root to the folder that holds the splits, or give the folder that is none another name",
            )
    splits = {words[one[: at[0] + 1]] for one, at in said.items() if at}
    without = [one for one, at in said.items() if not at]
    if len(splits) == 1 and without and not prescribed:
        raise _ambiguous(next(one[: at[0] + 1] for one, at in said.items() if at), without[0], root)
    classes = _classes(said, words)
    found = {}
    for one, at in said.items():
        if splits and not at:
            found[one] = Place("train", None, ("not_in_split", "it lies in no split folder, and others do"))
        else:
            found[one] = Place(words[one[: at[0] + 1]] if at else None, classes[one])
    _say(words, splits, without if splits else [], distinct)
    return [found[one] for one in folders]


def _ambiguous(folder: Folders, other: Folders, root: Path) -> UsageError:
    where = "/".join(other) or "the root itself"
    return UsageError(
        f"{'/'.join(folder)} may be a split or a class: there is no other split, and {where} holds videos of none",
        at=str(root),
        hint="put the others into folders of their own splits (train/, val/, test/), or leave them out of data.root; "
        "if it is no split, give the folder another name",
    )


def _split_folders(distinct: Iterable[Folders], neutral: frozenset[str]) -> dict[Folders, str]:
    """Every split folder of a tree, by its path, and its split."""
    children: dict[Folders, set[str]] = {}
    for one in distinct:
        for i, name in enumerate(one):
            children.setdefault(one[:i], set()).add(name)
    found = {}
    for parent, names in children.items():
        alike: dict[tuple[str | None, ...], dict[str, str]] = {}
        for name in names:
            tokens = _tokens(name)
            here = [word for word in tokens if word in WORDS]
            if (whole := split_word(name, neutral)) is not None:
                found[(*parent, name)] = whole
            elif len(here) == 1:
                key = tuple(None if word in WORDS else word for word in tokens)
                alike.setdefault(key, {})[name] = WORDS[here[0]]
        for group in alike.values():
            if len(set(group.values())) > 1:
                found |= {(*parent, name): split for name, split in group.items()}
    return found


def _classes(said: dict[Folders, list[int]], words: dict[Folders, str]) -> dict[Folders, str | None]:
    above: dict[Folders, set[str]] = {}  # what holds split folders that hold videos, and which splits
    for one, at in said.items():
        if at and at[-1] == len(one) - 1:
            above.setdefault(one[: at[0]], set()).add(words[one[: at[0] + 1]])
    each = len(above) > 1 and any(len(splits) > 1 for splits in above.values())
    classes: dict[Folders, str | None] = {}
    for one, at in said.items():
        if not at or at[-1] < len(one) - 1:
            classes[one] = one[-1] if one else None
        else:
            classes[one] = one[at[0] - 1] if each and at[0] else None
    if each:
        names = sorted({path[-1] for path in above if path})
        console.note(f"note: folders with splits of their own are classes: {console.some(names)}")
    return classes


def _say(words: dict[Folders, str], splits: set[str], without: Sequence[Folders], distinct: Sequence[Folders]) -> None:
    """Notes about what is unusual."""
    spelt: dict[str, set[str]] = {}
    for folder, split in words.items():
        spelt.setdefault(split, set()).add(folder[-1])
    for split, names in sorted(spelt.items()):
        if len(names) > 1:
            console.note(f"note: the folders {console.some(sorted(names))} are all read as the split {split}")
    if splits and "train" not in splits:
        console.note(f"note: every video is of the split {console.some(sorted(splits))}: there is none to train on")
    if without:
        where = sorted({"/".join(one) or "." for one in without})
        console.note(f"note: videos in no split folder are rejected: {console.some(where)}")
    parts = {one[: i + 1] for one in distinct for i in range(len(one))}
    if odd := {folder[-1] for folder in parts if folder not in words and splits_in(folder[-1])}:
        console.note(f"note: these folders hold a split's word, and are read as no split: {console.some(sorted(odd))}")


def note_unlabelled(classes: Sequence[str | None]) -> None:
    """Says that nobody has a class because some have none."""
    if (lacking := sum(name is None for name in classes)) not in (0, len(classes)):
        console.note(
            f"note: {console.count(lacking, 'videos')} of {len(classes):,} in no class folder: no video has a label"
        )
