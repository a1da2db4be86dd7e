"""Boxes cut out of a row's latent grid: a window in time, a crop in space, every n-th latent frame.

Codes cut out of a longer encoding differ from those of the window encoded alone (the encoder saw beyond its borders),
so a batch says with its boxes what its codes are (TATS's `vtokens_pos` adds position embeddings by the box,
https://arxiv.org/abs/2204.03638, and keeps every n-th latent frame for its hierarchical prior).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from vtok.seeds import derive
from vtok.tokens.order import keyed

Shape = tuple[int, int, int]
Box = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """What is cut out of every row; nothing by default.

    Attributes:
        t, h, w: latent frames (after the stride), rows and columns; none: all that there are.
        stride: 1: every latent frame; n: every n-th.
    """

    t: int | None = None
    h: int | None = None
    w: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.stride, *(1 if side is None else side for side in (self.t, self.h, self.w))) < 1:
            raise UsageError(f"a crop has positive sides and a positive stride, not {self}")

    @property
    def partial(self) -> bool:
        """Whether codes may be left out."""
        return self != Crop()

    def shape(self, grid: Shape) -> Shape:
        """What is left of a row with this grid.

        Raises:
            UsageError: the row is smaller than the crop.
        """
        frames = -(-grid[0] // self.stride)
        wanted = (self.t or frames, self.h or grid[1], self.w or grid[2])
        if wanted[0] > frames or wanted[1] > grid[1] or wanted[2] > grid[2]:
            raise UsageError(
                f"a crop of {wanted} does not fit into codes of {(frames, *grid[1:])}",
                hint="make the crop smaller, or leave the short clips out of the store",
            )
        return wanted

    def box(self, grid: Shape, draw: int) -> Box:
        """(t0, t1, h0, h1, w0, w1) of a row with this grid; the ends are exclusive.

        Args:
            grid: of the row.
            draw: a random number of 64 bits, which says where the box is.
        """
        t, h, w = self.shape(grid)
        span = (t - 1) * self.stride + 1 if self.t else grid[0]
        t0, h0, w0 = (
            (draw >> 21 * axis & 0x1FFFFF) % (side - size + 1)
            for axis, (side, size) in enumerate(zip(grid, (span, h, w), strict=True))
        )
        return t0, t0 + span, h0, h0 + h, w0, w0 + w


def crop_draws(seed: int, epoch: int, rows: np.ndarray) -> list[int]:
    """The random number of each row in an epoch."""
    return [int(value) for value in keyed(derive(seed, "token crop", epoch), rows)]
