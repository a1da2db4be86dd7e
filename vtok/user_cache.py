"""Where vtok keeps what can be made again at any time: VTOK_CACHE, else below XDG_CACHE_HOME, else below ~/.cache.

What is found there is believed, so it must be the user's own: a folder that belongs to somebody else, or that others
may write to, is used through a folder of the user's in it (`uid-1000`), or not at all, and a file of another owner is
never read. Where none of these places can be used (no home, a home that is read-only) it is a folder of the user's
among the temporary files. So users that name the same folder share nothing, and none stands in another's way.
"""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def user_cache(name: str) -> Path:
    """A folder of the user's cache; it need not exist."""
    named = os.environ.get("VTOK_CACHE")
    base: Path | None = None
    with suppress(RuntimeError):  # a user without a home
        base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vtok"
    return ((base and _own(base)) or temporary_folder()) / name


def private(facts: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user, and nobody else may write to it."""
    return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def temporary_folder() -> Path:
    """A folder of this user's among the temporary files, the same one every time unless somebody is in the way."""
    usual = Path(tempfile.gettempdir()) / f"vtok-{os.geteuid()}"
    with suppress(OSError):
        usual.mkdir(mode=0o700)
    with suppress(OSError):
        facts = usual.lstat()
        if stat.S_ISDIR(facts.st_mode) and private(facts):
            return usual
    return _another()


@functools.cache
def _another() -> Path:
    return Path(tempfile.mkdtemp(prefix=f"vtok-{os.geteuid()}-"))


def _own(base: Path) -> Path | None:
    """The folder itself if only this user can write to it, else the user's folder in it; None: neither can be had."""
    own = base / f"uid-{os.geteuid()}"
    try:
        if private(base.stat()):
            return base if base.is_dir() and os.access(base, os.W_OK | os.X_OK) else None
        with suppress(OSError):
            own.mkdir(mode=0o700)
        facts = own.lstat()
        return own if stat.S_ISDIR(facts.st_mode) and private(facts) and os.access(own, os.W_OK) else None
    except FileNotFoundError:  # it can be made if the nearest folder above it may be written to
        above = next((folder for folder in base.absolute().parents if folder.exists()), Path("/"))
        return base if not base.is_symlink() and above.is_dir() and os.access(above, os.W_OK | os.X_OK) else None
    except OSError:
        return None
