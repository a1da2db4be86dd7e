"""The strided pattern of VideoGPT; the originals' layouts are in tests/golden."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vtok.priors.flex import attend, kernel_mask
from vtok.priors.sparse import block_grid, block_layout, dense_mask


def test_the_published_case() -> None:
    layout = block_layout((4, 32, 32))
    assert layout.shape == (128, 128)
    assert int(layout.sum()) == 822
    assert not layout.triu(1).any()


@pytest.mark.parametrize(
    ("shape", "block", "grid"),
    [((4, 32, 32), 32, (4, 32)), ((4, 8, 8), 32, (4, 2)), ((2, 4, 4), 32, (1,)), ((8, 64, 64), 32, (8, 64, 2))],
)
def test_block_grids(shape: tuple[int, int, int], block: int, grid: tuple[int, ...]) -> None:
    assert block_grid(shape, block) == grid


def test_the_mask_is_the_layout_code_by_code() -> None:
    mask = dense_mask((4, 8, 8))
    assert mask.diagonal().all()
    assert not mask.triu(1).any()
    blocks = mask.unflatten(0, (8, 32)).unflatten(2, (8, 32)).any(3).any(1)
    assert torch.equal(blocks, block_layout((4, 8, 8)))


def test_grids_that_blocks_do_not_tile() -> None:
    for shape in ((2, 5, 5), (1, 2, 4), (4, 24, 20)):
        with pytest.raises(ValueError, match="block"):
            block_layout(shape)


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 8, 8), (8, 16, 8)])
def test_the_kernel_s_mask_gives_the_same_attention(shape: tuple[int, int, int]) -> None:
    layout, codes = block_layout(shape), math.prod(shape)
    draws = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, codes, 16, generator=draws) for _ in range(3))
    dense = F.scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(shape))
    mask = kernel_mask(layout)
    torch.testing.assert_close(attend(query, key, value, mask), dense)
    assert int(mask.kv_num_blocks.sum()) <= (codes // 128 + 1) * (codes // 128 + 2) / 2


def test_the_kernel_skips_blocks_of_long_clips() -> None:
    mask = kernel_mask(block_layout((4, 32, 32)))
    visited, all_blocks = int(mask.kv_num_blocks.sum()), 32 * 33 / 2
    assert visited < 0.5 * all_blocks
