"""Where vtok keeps what can be made again at any time: VTOK_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """A folder of the user's cache; it need not exist."""
    own = os.environ.get("VTOK_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "vtok"
    return base / name
