"""Every random draw comes from a generator of its own, keyed by what the draw is for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed that depends on the run's seed and on every key, e.g. `derive(0, "prior", "batch", 17)`."""
    text = "/".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """A CPU `torch.Generator` seeded by `derive(seed, *keys)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *keys))
