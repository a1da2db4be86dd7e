"""Checkpoints that somebody has put a program into."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from schemas.card import with_checksum
from tests.pipelines.making import digests

ASKED = "posix.mkdir"
"""What the program asks for: to make a folder, by which it shows."""


class Program:
    """A value whose pickle makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def planted(run: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Copies of a run, each with a program in another file of its only checkpoint, which is sealed again.

    Args:
        run: a training's folder.
        folder: where the copies go.

    Yields:
        the copy, and the folder that its program would make.
    """
    checkpoint = next((run / "checkpoints").iterdir())
    files = [path.relative_to(run) for path in sorted(checkpoint.rglob("*.pt"))]
    assert files, "a checkpoint has files of weights"
    for number, name in enumerate(files):
        copy, marker = folder / f"{run.name}-{number}", folder / f"ran-{run.name}-{number}"
        shutil.copytree(run, copy)
        content = torch.load(copy / name, weights_only=False)  # made by this test
        torch.save({**content, "planted": Program(marker)}, copy / name)
        seal(copy / checkpoint.relative_to(run))
        yield copy, marker


def seal(checkpoint: Path) -> None:
    """Writes the sha256 of every file into `state.json`, as whoever made the files would."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    found = digests(checkpoint)
    files = {name: found[name] for name in found if name != path.name}
    path.write_text(json.dumps(with_checksum({**state, "files": files})))


def runs(path: Path, marker: Path) -> bool:
    """Whether the program in a file is one: whether a reader that runs pickles makes the folder."""
    with path.open("rb"):
        torch.load(path, weights_only=False)
    made = marker.is_dir()
    marker.rmdir()
    return made


def bare(path: Path, marker: Path) -> None:
    """Makes a file a pickle without torch's archive around it."""
    path.write_bytes(pickle.dumps(Program(marker)))
