"""Ends what an embedded Ray has left when its job is gone: `python guard.py PARENT MARK FOLDER`.

A job that is killed cannot clean up. Ray's node ends then by itself, but its agents notice only after up to a minute,
and its folder stays. This process outlives the job by a second: it ends whatever carries the job's mark in its
environment or the job's folder in its command line, then removes the folder. Until then it takes from the folders below
the rights that Ray gives to everybody. It is a program of its own that imports next to nothing, and it is in a session
of its own, so that what ends the job does not reach it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

MARK = "VTOK_RAY_JOB"
"""Variable that all processes of an embedded Ray inherit."""

_POLL = 0.2  # seconds
_PATIENCE = 30.0  # seconds to try for


def main(parent: int, mark: str, folder: str) -> None:
    """Waits for the end of `parent`, then cleans up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.getppid() == parent:
        close_to_others(folder)
        time.sleep(_POLL)
    end_processes(mark, folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(mark: str, folder: str, grace: float = 0.0) -> None:
    """Returns when no process of a job is left but this one, or after half a minute.

    Args:
        mark: value of `MARK` in the processes' environment.
        folder: of the job's Ray.
        grace: seconds for which they may end by themselves.
    """
    started, clean = time.monotonic(), 0
    while clean < 2 and time.monotonic() < started + _PATIENCE:  # twice: what is being forked carries no mark yet
        left = processes(mark, folder)
        clean = 0 if left else clean + 1
        if time.monotonic() > started + grace:
            for number in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(number, signal.SIGKILL)
        time.sleep(_POLL / 4)


def processes(mark: str, folder: str) -> list[int]:
    """Numbers of the processes that belong to a job, without this one; none where there is no /proc."""
    wanted, place, here, found = f"{MARK}={mark}".encode(), folder.encode(), __file__.encode(), []
    with contextlib.suppress(FileNotFoundError):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                marked = wanted in (entry / "environ").read_bytes().split(b"\0")
                if command and (marked or (place in command and here not in command)):
                    found.append(int(entry.name))
    return found


def close_to_others(folder: str) -> None:
    """Takes the right to write from everybody but the owner: Ray makes its folders writable for all."""
    for place, names, _ in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode) and mode & 0o022:
                    path.chmod(stat.S_IMODE(mode) & ~0o022)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
