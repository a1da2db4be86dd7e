"""Clips from a masked prior, many codes at a time: MaskGIT's decoding (https://arxiv.org/abs/2202.04200) and
Draft-and-Revise (https://arxiv.org/abs/2206.04452), as MeBT uses them (https://arxiv.org/abs/2303.11251).

Every step draws all targets and writes them down; what is kept is decided after that. Deviation: a nucleus (top-p) ends
as TATS's does; MeBT's ends one code earlier where the probabilities before it sum up to exactly p.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vtok.priors.masking import SCHEDULES, Schedule, draft_partition, keep_best, masked_count, revise_partition
from vtok.sampling.logits import Generators, exponential, filter_logits

Decay = Literal["linear", "constant", "cosine"]


class Logits(Protocol):
    """From all codes, places that are seen and places to predict to logits; a `MebtPrior`'s, or guided ones."""

    def __call__(
        self, codes_bn: Int[Tensor, "b n"], contexts_bc: Int[Tensor, "b c"], targets_bm: Int[Tensor, "b m"], /
    ) -> Float[Tensor, "b m k"]: ...


class Drawn(NamedTuple):
    """Codes, and the order in which they were kept.

    Attributes:
        codes_bn: in raster order.
        order_bn: places, the first kept first.
    """

    codes_bn: Int[Tensor, "b n"]
    order_bn: Int[Tensor, "b n"]


def everywhere(batch: int, places: int, device: torch.device | str = "cpu") -> Int[Tensor, "b n"]:
    """All places of every clip in raster order."""
    return torch.arange(places, device=device).expand(batch, -1)


def draw_codes(
    logits_bmk: Float[Tensor, "b m k"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: Generators | None,
) -> tuple[Int[Tensor, "b m"], Float[Tensor, "b m"]]:
    """Codes drawn from logits, and their probabilities; without a generator the most likely ones."""
    flat = logits_bmk.flatten(0, 1).float() / (temperature + 1e-8)
    probabilities = torch.softmax(filter_logits(flat, top_k, top_p), dim=-1)
    race = probabilities
    if generator is not None:  # argmax p / q with exponential q draws from p
        race = probabilities / exponential(logits_bmk.shape, generator, flat.device).flatten(0, 1)
    codes = race.argmax(dim=-1, keepdim=True)
    shape = logits_bmk.shape[:2]
    return codes.view(shape), probabilities.gather(1, codes).view(shape)


@torch.inference_mode()
def sample_masked(
    logits: Logits,
    codes_bn: Int[Tensor, "b n"],
    contexts_bc: Int[Tensor, "b c"],
    targets_bm: Int[Tensor, "b m"],
    *,
    steps: int,
    schedule: Schedule = "cosine",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context_temperature: float = 0.0,
    decay: Decay = "linear",
    generator: Generators | None = None,
) -> Drawn:
    """MaskGIT's decoding: at each step the surest draws are kept, until nothing is masked.

    Args:
        logits: of the prior, in eval mode.
        codes_bn: codes in raster order; those at the context places are given.
        contexts_bc, targets_bm: places; together all places that matter.
        steps: at most so many; a step whose share of masked codes is larger than what is left is skipped.
        schedule: share of masked codes over time.
        temperature: divides the logits.
        top_k, top_p: as in `vtok.sampling.logits`.
        context_temperature: randomness of what is kept; 0: the surest.
        decay: how that randomness falls over time.
        generator: draws; None: the most likely codes, no randomness.
    """
    codes_bn = codes_bn.clone()
    total = contexts_bc.shape[1] + targets_bm.shape[1]
    for t in torch.linspace(0, 1, steps + 1)[1:]:
        masked = masked_count(schedule, t, total)
        if masked > targets_bm.shape[1]:
            continue
        drawn, score = draw_codes(logits(codes_bn, contexts_bc, targets_bm), temperature, top_k, top_p, generator)
        codes_bn.scatter_(1, targets_bm, drawn)
        if generator is not None and context_temperature > 0:
            noise = exponential(score.shape, generator, score.device)
            score = score / score.sum(1, keepdim=True) / noise ** (context_temperature * _share(decay, t))
        contexts_bc, targets_bm = keep_best(contexts_bc, targets_bm, score, masked)
    return Drawn(codes_bn, contexts_bc)


def _share(decay: Decay, t: Tensor) -> float:
    return 1.0 if decay == "constant" else float(SCHEDULES[decay](t))


@torch.inference_mode()
def draft(
    logits: Logits,
    codes_bn: Int[Tensor, "b n"],
    contexts_bc: Int[Tensor, "b c"],
    targets_bm: Int[Tensor, "b m"],
    orders_bm: Int[Tensor, "b m"],
    *,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
) -> Int[Tensor, "b n"]:
    """Draws the targets in groups of a random order, each from all before it.

    Args:
        orders_bm: a permutation of 0..m-1 a clip.
        steps: groups; m must divide by it.

    Raises:
        ValueError: it does not.
    """
    partition = draft_partition(contexts_bc, targets_bm, orders_bm, steps)
    return _redraw(logits, codes_bn, partition, temperature, top_k, top_p, generator)


@torch.inference_mode()
def revise(
    logits: Logits,
    codes_bn: Int[Tensor, "b n"],
    contexts_bc: Int[Tensor, "b c"],
    targets_bm: Int[Tensor, "b m"],
    orders_pbm: Int[Tensor, "p b m"],
    *,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
) -> Int[Tensor, "b n"]:
    """Draws the targets again, group by group, each from all others; once for every order.

    Args:
        orders_pbm: a permutation of 0..m-1 a pass and clip.
        steps: groups; m must divide by it.

    Raises:
        ValueError: it does not.
    """
    passes = (revise_partition(contexts_bc, targets_bm, orders_bm, steps) for orders_bm in orders_pbm)
    partition = itertools.chain.from_iterable(passes)
    return _redraw(logits, codes_bn, partition, temperature, top_k, top_p, generator)


def _redraw(
    logits: Logits,
    codes_bn: Tensor,
    partition: Iterable[tuple[Tensor, Tensor]],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: Generators | None,
) -> Tensor:
    """Draws the targets of every (contexts, targets), one after the other; later ones see what was drawn."""
    codes_bn = codes_bn.clone()
    for contexts, targets in partition:
        drawn, _ = draw_codes(logits(codes_bn, contexts, targets), temperature, top_k, top_p, generator)
        codes_bn.scatter_(1, targets, drawn)
    return codes_bn


def random_orders(batch: int, places: int, generator: Generators) -> Int[Tensor, "b n"]:
    """A permutation of 0..places-1 a clip."""
    if isinstance(generator, torch.Generator):
        return torch.rand(batch, places, generator=generator, device=generator.device).argsort(dim=1)
    return torch.stack([torch.rand(places, generator=g, device=g.device).argsort() for g in generator])
