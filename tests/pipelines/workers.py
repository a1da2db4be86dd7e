"""Workers that behave and workers that do not, for the tests of the runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import ConfigError, IntegrityError, VtokError
from vtok.artefacts import Part
from vtok.parquet import write_part
from vtok.stopwatch import Stopwatch


class Writing:
    """Writes what it is given; leaves its process number behind."""

    def __init__(self, folder: str, plan: str, notes: str) -> None:
        self.folder, self.plan, self.notes = Path(folder), plan, Path(notes)
        self.clock = Stopwatch()

    def make(self, name: str, payload: Any) -> Part:
        self.notes.mkdir(exist_ok=True)
        with (self.notes / name).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        self.misbehave(name)
        metadata = {"plan": self.plan, "split": "train", "rejects": []}
        return write_part(self.folder / name, pa.table({"n": [payload]}), metadata, point="")

    def misbehave(self, name: str) -> None:
        """Nothing, here."""


class DiesOnce(Writing):
    """Is lost the first time that it makes b, with a file half-written."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet" and len((self.notes / name).read_text().splitlines()) == 1:
            (self.folder / ".vtok-tmp-left-b.parquet").write_bytes(b"half")
            os._exit(1)


class AlwaysDies(Writing):
    """Is lost whenever it makes b."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet":
            os._exit(1)


class LeavesAZombie(Writing):
    """Is lost the first time that it makes b; what it began goes on elsewhere and comes to its end much later."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet" and len((self.notes / name).read_text().splitlines()) == 1:
            command = [sys.executable, "-m", "tests.pipelines.workers", str(self.folder), self.plan, str(self.notes)]
            subprocess.Popen(command, start_new_session=True, cwd=Path(__file__).parents[2])
            os._exit(1)


class Slow(Writing):
    """Is at work on b until the note `told` is there."""

    def misbehave(self, name: str) -> None:
        while name == "b.parquet" and not (self.notes / "told").exists():
            time.sleep(0.1)


class StuckOnce(Writing):
    """Does not come back from b the first time."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet" and len((self.notes / name).read_text().splitlines()) == 1:
            time.sleep(3600)


class Complains(Writing):
    """Raises an error for users."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet":
            raise ConfigError([("data.root", "is gone", "mount it")], at="r.yaml")


class DiskIsFull(Writing):
    """Finds no room for b; its temporary file is there, and empty."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet":
            (self.folder / ".vtok-tmp-left-b.parquet").touch()
            raise VtokError("cannot write the file: No space left on device", at=name, hint="make room")


class HasABug(Writing):
    """Raises what nobody expected."""

    def misbehave(self, name: str) -> None:
        if name == "b.parquet":
            raise ZeroDivisionError("one over nothing")


class CannotStart(Writing):
    """Its constructor finds damage."""

    def __init__(self, folder: str, plan: str, notes: str) -> None:
        super().__init__(folder, plan, notes)
        self.notes.mkdir(exist_ok=True)
        with (self.notes / "starts").open("a") as stream:
            stream.write("x")
        raise IntegrityError("the weights are not those that were written", at="w.safetensors", hint="copy them again")


class Hangs(Writing):
    """Never finishes b."""

    def misbehave(self, name: str) -> None:
        while name == "b.parquet":
            time.sleep(0.1)


def zombie() -> None:
    """Waits until the part that it was asked for is there, and then writes it once more."""
    folder, plan, notes = sys.argv[1:]
    while not (Path(folder) / "_vtok.json").exists():
        time.sleep(0.1)
    Writing(folder, plan, notes).make("b.parquet", 1)
    (Path(notes) / "zombie").touch()


if __name__ == "__main__":
    zombie()
