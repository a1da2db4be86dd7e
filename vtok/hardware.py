"""What this machine has, and how many threads a piece of work should use."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable

_ROUNDS = 3


def cpu_count() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_compiler() -> str | None:
    """Path of a C++ compiler (CXX, c++, g++, clang++), or None. DeepSpeed needs one at its first start."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        found = shutil.which(name)
        if found:
            return found
    return None


def choose_threads(step: Callable[[], None]) -> int:
    """Times `step` with one torch thread and with one per core; sets and returns the faster count.

    Small operations get much slower on several threads while large convolutions scale, so it is measured: one warm-up
    and the median of three, interleaved.
    """
    import torch

    cores = cpu_count()
    if cores == 1:
        torch.set_num_threads(1)
        return 1
    candidates = (1, cores)
    times: dict[int, list[float]] = {count: [] for count in candidates}
    for round_number in range(_ROUNDS + 1):
        for count in candidates:
            torch.set_num_threads(count)
            start = time.perf_counter()
            step()
            if round_number:
                times[count].append(time.perf_counter() - start)
    best = min(candidates, key=lambda count: statistics.median(times[count]))
    torch.set_num_threads(best)
    return best
