"""Rotary positions along time, height and width (RoPE, https://arxiv.org/abs/2104.09864, an axis a third of a head).

The channels of a head are pairs, and a pair turns by an angle that grows with the place on its axis: what two codes
have to do with each other depends on how far apart they are on every axis. There is no longest clip. Condition tokens
come before the clip, at times -1, -2, ...; they are always seen, so places are known absolutely, too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BASE = 10_000.0


class Turns(NamedTuple):
    """Cosine and sine of every pair's angle, float32."""

    cos_np: Float[Tensor, "n p"]
    sin_np: Float[Tensor, "n p"]


def places_of(
    numbers_n: Int[Tensor, " n"], before: int, height: int, width: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Time, row and column of inputs by their number: `before` condition tokens, then codes in raster order."""
    code_n = numbers_n - before
    inside = code_n >= 0
    place_n = code_n.clamp_min(0)
    time_n = torch.where(inside, place_n // (height * width), code_n)
    return time_n, place_n // width % height, place_n % width


def turns_of(numbers_n: Int[Tensor, " n"], before: int, height: int, width: int, channels: int) -> Turns:
    """The turns of inputs by their number; see `places_of`.

    Args:
        channels: of a head; even, 6 or more.
    """
    pairs = channels // 2
    third = pairs // 3
    angles = []
    places = places_of(numbers_n, before, height, width)
    for place_n, count in zip(places, (pairs - 2 * third, third, third), strict=True):
        speeds = _BASE ** (-torch.arange(count, device=numbers_n.device, dtype=torch.float32) / count)
        angles.append(place_n.float().unsqueeze(1) * speeds)
    angle_np = torch.cat(angles, dim=1)
    return Turns(angle_np.cos(), angle_np.sin())


def turn(x_bhnd: Float[Tensor, "b h n d"], turns: Turns) -> Float[Tensor, "b h n d"]:
    """Every pair (a channel of the first half and its partner in the second) turned by its angle."""
    first, second = x_bhnd.float().chunk(2, dim=-1)
    cos, sin = turns
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_bhnd.dtype)
