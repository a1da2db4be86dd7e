"""The strided pattern of VideoGPT; the originals' layouts are in tests/golden."""

from __future__ import annotations

import pytest
import torch

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
