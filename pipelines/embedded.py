"""What an embedded Ray has of its own: a folder, a token, the loopback address, and a guard that cleans up after it.

Ray gives itself a folder that everybody may write to, listens on all addresses of the machine and keeps its token in
the user's home, which may not be there. On a machine that others use, and in a container without a home, a job needs
all of these for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from pipelines import guard

ADDRESS = "127.0.0.1"
_PREFIX = "vtok-ray-"
_SHORT = 22  # characters of a folder below which the paths of Ray's sockets are short enough
_YOUNG = 60.0  # seconds for which a folder may be without its owner's lock
_GRACE = 1.0  # seconds that Ray's processes have to end by themselves


class Embedded:
    """Of one embedded Ray, from before its start until `close`.

    Attributes:
        folder: for `ray.init`; nobody else can enter it.
    """

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_place()))  # for this user alone
        self._lock = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._mark = secrets.token_hex(16)
        command = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), self._mark, str(self._home)]
        nothing = subprocess.DEVNULL
        self._guard = subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=nothing, cwd="/", start_new_session=True
        )
        self.folder = self._home / "r"
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), guard.MARK: self._mark}
        self._before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        _read_token_again()
        # Ray takes 127.0.0.1 for the machine's other address, but where it makes no clusters (macOS).
        self._clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
        sweep_left()

    def close(self) -> None:
        """After Ray's end: nothing of it is left, and the process is as before."""
        ray_constants.ENABLE_RAY_CLUSTER = self._clusters
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_token_again()
        guard.end_processes(self._mark, str(self._home), _GRACE)
        shutil.rmtree(self._home, ignore_errors=True)
        self._guard.kill()
        self._guard.wait()
        os.close(self._lock)


def sweep_left() -> None:
    """Removes what is left of this user's jobs that were killed together with their guards."""
    for folder in Path(_place()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = folder.lstat()
            if facts.st_uid != os.geteuid() or facts.st_mtime > time.time() - _YOUNG:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a job that is alive holds it
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _place() -> str:
    """The folder for temporary files, or /tmp if its name is too long for Ray's sockets."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return usual if len(usual) <= _SHORT or not os.access("/tmp", os.W_OK) else "/tmp"


def _read_token_again() -> None:
    """Ray keeps in memory what it has read of the environment."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
