"""Rate, waiting, memory, use of the GPU and time left, as a step line shows them."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch

from trainers.ranks import world_size
from trainers.task import Task

PEAK_FLOPS: dict[str, float] = {
    "V100": 125e12,
    "T4": 65e12,
    "A100": 312e12,
    "A10": 125e12,
    "A30": 165e12,
    "A40": 150e12,
    "A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
}
"""Dense 16-bit peak in FLOP/s by a part of the GPU's name, from the vendor's data sheets."""


def peak_flops(gpu: str) -> float | None:
    """Dense 16-bit peak of a GPU, FLOP/s; None for one that is not in the table."""
    found = [name for name in PEAK_FLOPS if name.lower() in gpu.lower()]
    return PEAK_FLOPS[max(found, key=len)] if found else None


class Meter:
    """Counts since the last line.

    Args:
        task: gives units, and the FLOPs of one.
        steps: planned.
        step: where this process began.
    """

    def __init__(self, task: Task, steps: int, step: int) -> None:
        self.task, self.steps = task, steps
        self.waited = 0.0
        self._last_step, self._last_time = step, time.perf_counter()
        self._start = self._last_time
        self._validation = 0.0
        self._rate = 0.0
        peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        self._peak = None if peak is None else peak * world_size()

    def validated(self, values: dict[str, float]) -> None:
        """Validation time does not count towards the rate."""
        self._validation += values.pop("seconds", 0.0)

    def row(self, step: int, values: dict[str, float]) -> dict[str, Any]:
        """The numbers of a step line."""
        now = time.perf_counter()
        elapsed = max(now - self._last_time - self._validation, 1e-9)
        trained = step - self._last_step
        if trained:
            self._rate = trained / elapsed
        waited = min(1.0, self.waited / elapsed)
        self._last_step, self._last_time, self.waited, self._validation = step, now, 0.0, 0.0
        left = (self.steps - step) / self._rate if self._rate else 0.0
        rate = self._rate * self.task.units_at(step - 1)
        flops = None if self._peak is None else self.task.flops_per_unit(step - 1)
        return {
            "step": step,
            "steps": self.steps,
            **values,
            "rate": rate,
            "unit": self.task.unit,
            **({} if flops is None or self._peak is None else {"mfu": rate * flops / self._peak}),
            "mem_gb": memory_gb(),
            "data_fraction": waited,
            "eta": left,
            "seconds": now - self._start,
        }


def memory_gb() -> float:
    """Peak memory: of the GPU where there is one, else resident memory of this process. GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
