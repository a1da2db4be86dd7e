"""Waits for the compilation of DeepSpeed's op in another process, and does not wait for one that was killed.

torch marks a folder in which it compiles an op by a file named `lock` (`torch.utils.file_baton`), and every other
process waits until that file is gone: without end and without a word, if the process that made it was killed. The maker
keeps the file open, so on one machine it can be found; on another one that shares the folder it shows by what it
writes.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from vtok import console

_QUIET = 120.0
"""Seconds without a sign of life after which a compilation that no process here is at has ended."""

_POLL = 0.5


def wait_for_compilation() -> None:
    """Returns when no op of DeepSpeed's is being compiled, and takes away locks that were left behind."""
    for lock in _locks():
        said = False
        while lock.exists() and not _removed(lock):
            if not said:
                who = holder(lock)
                by = "another machine, or a process that was killed" if who is None else f"process {who}"
                console.note(f"waiting for the compilation of DeepSpeed's op by {by} ({lock})")
                said = True
            time.sleep(_POLL)


def holder(lock: Path) -> int | None:
    """The process on this machine that has the file open, or None."""
    target = str(lock.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == target:
                return int(link.parts[2])
        except OSError:  # it is gone, or another user's
            continue
    return None


def _locks() -> list[Path]:
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return sorted({*root.glob("deepspeed_*/lock"), *root.glob("*/deepspeed_*/lock")})


def _removed(lock: Path) -> bool:
    """Removes the lock if nobody is behind it. One process at a time looks, or it would remove the next one's."""
    try:
        handle = os.open(lock.parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not lock.exists():
            return True
        if holder(lock) is not None or time.time() - _last_sign(lock.parent) < _QUIET:
            return False
        lock.unlink(missing_ok=True)
    except OSError:  # no such locks on this file system, or a folder of another user's
        return False
    finally:
        os.close(handle)
    console.note(f"removed {lock}: the process that compiled DeepSpeed's op was killed")
    return True


def _last_sign(folder: Path) -> float:
    """When something in the folder was last written, seconds since 1970."""
    times = []
    for path in folder.iterdir():
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times, default=0.0)
