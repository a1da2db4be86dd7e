"""The collectives that tokenizer training needs; each does without communication outside `torch.distributed`.

They work with any backend (NCCL, gloo), so that the synchronised layers can be tested on a CPU.
"""

from __future__ import annotations

import torch
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


def rows_of_all_ranks(rows_nc: Tensor, index_k: Tensor) -> Tensor:
    """Rows of the gathered batch (rank 0's, then rank 1's, ...), the same on every rank, outside autograd.

    Args:
        rows_nc: this rank's rows; every rank has as many.
        index_k: which to pick, 0..n*world_size-1, the same on every rank.
    """
    if world_size() == 1:
        return rows_nc[index_k]
    own_k = index_k - dist.get_rank() * rows_nc.shape[0]
    mine_k1 = ((own_k >= 0) & (own_k < rows_nc.shape[0])).unsqueeze(1)
    # Only the picked rows travel, not the batch: each is on one rank, and zero on all others.
    picked_kc = rows_nc[own_k.clamp(0, rows_nc.shape[0] - 1)]
    return sum_over_ranks(torch.where(mine_k1, picked_kc, torch.zeros_like(picked_kc)))
