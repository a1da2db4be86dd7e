"""Which codes a masked prior sees and which it predicts: MeBT's mask schedules, length curriculum and partitions
(https://arxiv.org/abs/2303.11251), after MaskGIT (https://arxiv.org/abs/2202.04200) and Draft-and-Revise
(https://arxiv.org/abs/2206.04452).

Counts are computed in float32, as in the original: one ulp decides how many codes stay masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Schedule = Literal["linear", "cosine", "cosine_plus", "quadratic", "convex", "square", "cube", "sqrt"]
LengthPrior = Literal["longest", "uniform", "gaussian2", "gaussian100000_2"]

SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: torch.cos(math.pi / 2 * t),
    "cosine_plus": lambda t: 0.5 * (1 + torch.cos(math.pi * t)),
    "quadratic": lambda t: (1 - t) ** 2,
    "convex": lambda t: (1 - t) ** 3,
    "square": lambda t: 1 - t**2,
    "cube": lambda t: 1 - t**3,
    "sqrt": lambda t: 1 - t**0.5,
}
"""From time t in [0, 1] to the share of codes that are masked: 1 at t = 0, 0 at t = 1."""

_GAUSSIANS = {"gaussian2": (30_000.0, 2.0), "gaussian100000_2": (100_000.0, 2.0)}


def masked_count(schedule: Schedule, t: float | Tensor, total: int) -> int:
    """How many of `total` codes are masked at time t: ceil(schedule(t) * total), never negative."""
    share = SCHEDULES[schedule](torch.as_tensor(t, dtype=torch.float32))
    return max(0, int(torch.ceil(share * total)))


def length_probabilities(prior: LengthPrior, longest: int, step: int) -> Float[Tensor, " l"]:
    """Probability of training on 1, 2, ... `longest` latent frames at an optimiser step.

    `gaussian*` moves from short clips to long ones: the mean grows by one frame every 30,000 (or 100,000) steps and
    stays at the longest. (The original's weights underflow to NaN far beyond that; these are normalised as logarithms.)
    """
    lengths = torch.arange(1, longest + 1, dtype=torch.float64)
    if prior == "longest":
        return (lengths == longest).float()
    if prior == "uniform":
        return torch.full((longest,), 1 / longest)
    width, spread = _GAUSSIANS[prior]
    logits = -((step - (lengths - 1) * width) ** 2) / (2 * (width * spread) ** 2)
    return torch.softmax(logits, dim=0).float()


def beta_at(beta: tuple[float, float], step: int, steps: int) -> tuple[float, float]:
    """The parameters of the Beta distribution of times at a step: they go to (1, 1) over `steps`."""
    share = min(1.0, step / steps)
    return beta[0] + (1 - beta[0]) * share, beta[1] + (1 - beta[1]) * share


def draw_time(beta: tuple[float, float] | None, step: int, steps: int, generator: torch.Generator) -> float:
    """A time in [0, 1]: evenly, or from Beta(a, b), which becomes even, Beta(1, 1), over `steps`."""
    if beta is None:
        return float(torch.rand((), generator=generator))
    draws = []
    for parameter in beta_at(beta, step, steps):
        now = torch.tensor([parameter], dtype=torch.float64)
        draws.append(float(torch._standard_gamma(now, generator=generator)))  # two gamma draws make a beta draw
    return draws[0] / max(sum(draws), 1e-300)


def draw_part(prior: LengthPrior, longest: int, step: int, generator: torch.Generator) -> tuple[int, int]:
    """(first latent frame, latent frames) of the part of a clip to train on at an optimiser step."""
    probabilities = length_probabilities(prior, longest, step)
    frames = 1 + int(torch.multinomial(probabilities, 1, generator=generator))
    return int(torch.randint(longest - frames + 1, (1,), generator=generator)), frames


class Division(NamedTuple):
    """A batch's codes divided into what is seen and what is predicted.

    Attributes:
        contexts_bn: places of the codes that are seen.
        targets_bn: places of the codes that are predicted.
        length: codes of the part of the clip that was used.
        masked: codes of it that were masked, whether they are predicted or not.
    """

    contexts_bn: Int[Tensor, "b c"]
    targets_bn: Int[Tensor, "b n"]
    length: int
    masked: int


def divide(
    orders_bn: Int[Tensor, "b n"],
    shape: tuple[int, int, int],
    *,
    schedule: Schedule,
    t: float,
    first_frame: int = 0,
    frames: int | None = None,
    budget: int | None = None,
    parity: bool = False,
) -> Division:
    """Divides each clip's codes in a random order at time t.

    Args:
        orders_bn: a permutation of all places a clip.
        shape: codes (t, h, w) of a clip.
        schedule: see `SCHEDULES`.
        t: in [0, 1].
        first_frame, frames: the part of the clip to use, in latent frames; places keep their numbers.
        budget: predict at most so many of the masked codes; None: all.
        parity: with nothing masked predict everything, as the original does, instead of one code.
    """
    area = shape[1] * shape[2]
    length = (frames or shape[0]) * area
    low = first_frame * area
    inside = (orders_bn >= low) & (orders_bn < low + length)
    orders_bn = orders_bn[inside].view(len(orders_bn), length)
    masked = masked_count(schedule, t, length)
    if not parity:
        masked = max(1, masked)
    predicted = masked if budget is None else min(budget, masked)
    return Division(orders_bn[:, : length - masked], orders_bn[:, -predicted:], length, masked)


def keep_best(
    contexts_bc: Int[Tensor, "b c"],
    targets_bn: Int[Tensor, "b n"],
    score_bn: Float[Tensor, "b n"],
    masked: int,
) -> tuple[Int[Tensor, "b d"], Int[Tensor, "b m"]]:
    """Moves the targets with the highest score to the contexts until `masked` targets are left.

    Returns:
        The new contexts, best of the new ones first behind the old ones, and the targets left, in descending score; the
        arguments themselves if there are no more targets than that already.
    """
    new = targets_bn.shape[1] - masked
    if new <= 0:
        return contexts_bc, targets_bn
    ranked = targets_bn.gather(1, score_bn.argsort(dim=1, descending=True, stable=True))
    return torch.cat([contexts_bc, ranked[:, :new]], dim=1), ranked[:, new:]


def _groups(targets_bn: Tensor, orders_bn: Tensor, count: int) -> list[Tensor]:
    if targets_bn.shape[1] % count:
        raise ValueError(f"{targets_bn.shape[1]} codes do not divide into {count} groups of equal size")
    return list(targets_bn.gather(1, orders_bn).chunk(count, dim=1))


def draft_partition(
    contexts_bc: Int[Tensor, "b c"], targets_bn: Int[Tensor, "b n"], orders_bn: Int[Tensor, "b n"], count: int
) -> Iterator[tuple[Int[Tensor, "b d"], Int[Tensor, "b m"]]]:
    """(contexts, targets) of each step of a draft: what is not drawn yet is predicted from what is.

    Args:
        orders_bn: a permutation of 0..n-1 a clip.
        count: steps, groups of equal size.

    Raises:
        ValueError: the targets do not divide into that many groups.
    """
    groups = _groups(targets_bn, orders_bn, count)
    for i in range(count):
        yield torch.cat([contexts_bc, *groups[:i]], dim=1), torch.cat(groups[i:], dim=1)


def revise_partition(
    contexts_bc: Int[Tensor, "b c"], targets_bn: Int[Tensor, "b n"], orders_bn: Int[Tensor, "b n"], count: int
) -> Iterator[tuple[Int[Tensor, "b d"], Int[Tensor, "b m"]]]:
    """(contexts, targets) of each step of a revision: every group is predicted from all others.

    Raises:
        ValueError: as `draft_partition`.
    """
    groups = _groups(targets_bn, orders_bn, count)
    for i in range(count):
        yield torch.cat([contexts_bc, *groups[i + 1 :], *groups[:i]], dim=1), groups[i]
