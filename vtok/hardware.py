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

    Small operations get much slower on several threads while large convolutions scale, so it is measured.
    """
    import torch

    times = time_threads(step)
    best = min(times, key=times.__getitem__)
    torch.set_num_threads(best)
    return best


def time_threads(step: Callable[[], None]) -> dict[int, float]:
    """Seconds that `step` takes with one torch thread and with one per core: one warm-up and the median of three,
    interleaved. The number of threads is left as it was."""
    import torch

    before, candidates = torch.get_num_threads(), sorted({1, cpu_count()})
    times: dict[int, list[float]] = {count: [] for count in candidates}
    try:
        for round_number in range(_ROUNDS + 1 if len(candidates) > 1 else 1):
            for count in candidates:
                torch.set_num_threads(count)
                start = time.perf_counter()
                step()
                if round_number or len(candidates) == 1:
                    times[count].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {count: statistics.median(found) for count, found in times.items()}
