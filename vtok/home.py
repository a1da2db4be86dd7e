"""A home for libraries that need one: containers run under users that have none, or none that can be written to.

torch, DeepSpeed, Triton and others keep compiled code below HOME and ask the system for the user's name, and they fail
where there is no such thing. What is missing is set before they are imported; what the user has set is kept.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from vtok.user_cache import temporary_folder


def settle() -> None:
    """Sets HOME where it is missing or no folder, the caches' places where it is read-only, and USER where the system
    knows no name for the user."""
    try:
        known = pwd.getpwuid(os.geteuid())
    except KeyError:
        known = None
        os.environ.setdefault("USER", f"uid-{os.geteuid()}")
    home = os.environ.get("HOME") or (known.pw_dir if known else "")
    there = bool(home) and Path(home).is_dir()
    if there and os.access(home, os.W_OK | os.X_OK):
        return
    place = temporary_folder() / "home"
    place.mkdir(mode=0o700, exist_ok=True)
    if not there:
        os.environ["HOME"] = str(place)
    os.environ.setdefault("XDG_CACHE_HOME", str(place / ".cache"))
    os.environ.setdefault("TRITON_HOME", str(place))
