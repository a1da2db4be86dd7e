"""The three collectives that tokenizer training needs; each is the identity outside `torch.distributed`.

They work with any backend (NCCL, gloo), so that the synchronised layers can be tested on a CPU.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks of the default process group; 1 when none is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """`value` summed over all ranks, in place, outside autograd."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value


def from_first_rank(value: Tensor) -> Tensor:
    """Rank 0's `value` on every rank, in place, outside autograd."""
    if world_size() > 1:
        dist.broadcast(value, src=0)
    return value
