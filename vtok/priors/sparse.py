"""The strided sparse attention pattern of VideoGPT (https://arxiv.org/abs/2104.10157) over codes in raster order.

The original runs it on block-sparse kernels that no current stack has. Here it is a mask: dense and boolean for small
sequences and for decoding, and by blocks for kernels that skip what is masked.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

BLOCK = 32
LOCAL_BLOCKS = 4


def block_layout(
    shape: tuple[int, int, int], *, block: int = BLOCK, local_blocks: int = LOCAL_BLOCKS, causal: bool = True
) -> Bool[Tensor, "r c"]:
    """Which blocks of keys (columns) each block of queries (rows) attends to; the same for every head.

    - Local: the `local_blocks` blocks before a row's own, and that one. Not causal: also one fewer than that after it.
    - Strided: the blocks grid is the codes' grid with its last axes divided by `block`. Along every axis of it but the
      last a row attends to the blocks at the same place on the other axes (causal: those before it).

    Args:
        shape: codes (t, h, w).
        block: codes in a block.
        local_blocks: width of the local window, blocks.
        causal: only the past.

    Raises:
        ValueError: blocks do not tile the codes.
    """
    grid = block_grid(shape, block)
    rows = math.prod(grid)
    number = torch.arange(rows)
    distance = number.unsqueeze(1) - number  # row minus column
    ahead = 0 if causal else local_blocks - 1
    layout = (distance <= local_blocks) & (distance >= -ahead)
    places = torch.stack(torch.unravel_index(number, grid), dim=1)
    same = places.unsqueeze(1) == places
    for axis in range(len(grid) - 1):
        others = [other for other in range(len(grid)) if other != axis]
        layout |= same[:, :, others].all(-1)
    return layout & (distance >= 0) if causal else layout


def block_grid(shape: tuple[int, int, int], block: int) -> tuple[int, ...]:
    """The grid of blocks: the last axes of `shape`, taken together, divided by `block`.

    Raises:
        ValueError: blocks do not tile the codes.
    """
    axes, left = list(shape), block
    while left > 1:
        if not axes:
            raise ValueError(f"a grid of {shape} codes has fewer than one block of {block}")
        if left % axes[-1] == 0:
            left //= axes.pop()
        elif axes[-1] % left == 0:
            axes[-1] //= left
            left = 1
        else:
            raise ValueError(f"blocks of {block} do not tile a grid of {shape} codes")
    return tuple(axes) or (1,)


def dense_mask(
    shape: tuple[int, int, int], *, block: int = BLOCK, local_blocks: int = LOCAL_BLOCKS, causal: bool = True
) -> Bool[Tensor, "q k"]:
    """The layout code by code: True where a query sees a key; the past only, if causal.

    Raises:
        ValueError: blocks do not tile the codes.
    """
    layout = block_layout(shape, block=block, local_blocks=local_blocks, causal=causal)
    return mask_of(layout, block=block, causal=causal)


def mask_of(layout_rc: Bool[Tensor, "r c"], *, block: int = BLOCK, causal: bool = True) -> Bool[Tensor, "q k"]:
    """A block layout code by code."""
    mask = layout_rc.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return mask.tril() if causal else mask
