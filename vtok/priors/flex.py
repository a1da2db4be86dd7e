"""The strided sparse pattern through FlexAttention (https://arxiv.org/abs/2412.05496), whose kernel skips empty blocks.

On CUDA the kernel is compiled when it is first used; elsewhere torch computes the same by whole rows. No mask of codes
by codes is ever made: the kernel asks for the block layout, which is 1,024 times smaller.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from vtok.priors.sparse import BLOCK

_KERNEL_BLOCK = 128


def kernel_mask(layout_rc: Bool[Tensor, "r c"], block: int = BLOCK) -> BlockMask:
    """What the kernel visits (blocks of 128), and within these which codes see which: the layout, the past only.

    Args:
        layout_rc: of `vtok.priors.sparse.block_layout`, causal, on the device.
        block: codes in one of its blocks; divides 128.
    """
    together = _KERNEL_BLOCK // block
    rows = math.ceil(len(layout_rc) / together)
    padded = layout_rc.new_zeros(rows * together, rows * together)
    padded[: len(layout_rc), : len(layout_rc)] = layout_rc
    visited = padded.view(rows, together, rows, together).any(3).any(1)
    counts = visited.sum(1, dtype=torch.int32)
    # the visited ones first, in order
    order = visited.int().argsort(dim=1, descending=True, stable=True).int()

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & padded[query // block, key // block]

    length = len(layout_rc) * block
    return BlockMask.from_kv_blocks(
        counts[None, None], order[None, None], BLOCK_SIZE=_KERNEL_BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def attend(
    query_bhnd: Float[Tensor, "b h n d"], key_bhnd: Tensor, value_bhnd: Tensor, mask: BlockMask
) -> Float[Tensor, "b h n d"]:
    """Attention of a whole sequence to itself through a `kernel_mask`."""
    kernel: Any = _compiled() if query_bhnd.is_cuda else flex_attention
    out: Tensor = kernel(query_bhnd, key_bhnd, value_bhnd, block_mask=mask)
    return out


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
