"""One writer a folder: the kernel's lock on the folder itself, so that a killed process leaves nothing behind.

The lock is one process's: what it has forked (a loader's workers, say) does not hold it, and cannot keep it for longer.

Where there are no such locks (object stores, some network file systems) two jobs on one folder do not hurt each other
all the same: parts are deterministic and appear whole, so both write the same bytes under the same names, and only work
is wasted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import UsageError, VtokError
from schemas.paths import ObjectPath
from vtok.files import TEMP_MARK, sweep_temporaries


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Keeps other jobs out of a folder, which is made if need be; yields whether that can be had here.

    Raises:
        UsageError: another job is at work in the folder.
        VtokError: the folder cannot be made.
    """
    if isinstance(folder, ObjectPath):
        yield False
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise VtokError(
            f"cannot use the folder: {error.strerror or error}",
            at=str(folder),
            hint="set `out` to a folder that you may write to",
        ) from error
    _handles.add(handle)
    try:
        yield _lock(handle, folder)
    finally:
        if handle in _handles:
            _handles.discard(handle)
            os.close(handle)


def sweep_if_idle(folder: Path) -> int:
    """Deletes the temporary files that a killed job left in an artefact's folder and in its checkpoints, unless a job
    is at work there or nobody can tell; returns how many."""
    if isinstance(folder, ObjectPath):
        return 0
    with suppress(VtokError, OSError):  # others are at work, or nothing can be changed here: let them be
        places = [folder, *(below for below in folder.iterdir() if below.is_dir())]
        if any(next(place.glob(f"{TEMP_MARK}*"), None) for place in places):
            with exclusive(folder) as alone:
                return sum(map(sweep_temporaries, places)) if alone else 0
    return 0


_handles: set[int] = set()


def _let_go() -> None:
    """In a process that was forked while the lock was held: the kernel keeps a lock while any copy of it is open."""
    while _handles:
        os.close(_handles.pop())


os.register_at_fork(after_in_child=_let_go)


def _lock(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            "another job is at work in this folder",
            at=str(folder),
            hint="wait until it ends (it goes on by itself), or stop it first; nothing was touched",
        ) from None
    except OSError:
        return False
    return True
