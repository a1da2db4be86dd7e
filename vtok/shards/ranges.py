"""A file's bytes by offset, on a disk or in an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Protocol

from schemas.paths import ObjectPath


class Ranges(Protocol):
    """An open file."""

    def read(self, start: int, count: int) -> bytes:
        """Bytes from an offset on; fewer than `count` only where the file ends."""

    def stream(self, buffering: int) -> IO[bytes]:
        """The same file for reading it from its start; closing the stream leaves this open."""

    def close(self) -> None:
        """Closes the file; once more does nothing."""


def open_ranges(path: Path) -> Ranges:
    """Opens a file.

    Raises:
        OSError: it is not there, or cannot be read.
        VtokError: the object store does not answer.
    """
    return _InStore(path) if isinstance(path, ObjectPath) else _OnDisk(path)


class _OnDisk:
    """Processes that were forked may share the handle: reading does not move it."""

    _handle = -1

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self._handle, count, start)

    def stream(self, buffering: int) -> IO[bytes]:
        stream = open(self._handle, "rb", buffering=buffering, closefd=False)  # noqa: SIM115
        stream.seek(0)
        return stream

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        self.close()


class _InStore:
    """Every range is one request."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._file = path.open("rb", 0)

    def read(self, start: int, count: int) -> bytes:
        self._file.seek(start)
        return bytes(self._file.read(count))

    def stream(self, buffering: int) -> IO[bytes]:
        return self._path.open("rb")

    def close(self) -> None:
        self._file.close()
