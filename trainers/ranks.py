"""The processes of a training: who am I, how many are we, and what do we have in common."""

from __future__ import annotations

import os
from typing import Any

import torch


def rank() -> int:
    """This process's rank, from the launcher's environment until torch.distributed is up; 0 in a run of one process."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of training processes, from the launcher's environment until torch.distributed is up."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_here() -> int:
    """Training processes on this machine: LOCAL_WORLD_SIZE, as torchrun says, or LOCAL_SIZE, as DeepSpeed's does."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")


def average(values: dict[str, float]) -> dict[str, float]:
    """The mean of every value over all ranks, which must hold the same keys."""
    if world_size() == 1:
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(values, (total / world_size()).tolist(), strict=True))


def barrier() -> None:
    """Waits for all ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather(value: Any) -> list[Any]:
    """Each rank's value, on all ranks."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(found, value)
    return found
