"""From logits to a token: temperature, top-k, nucleus (top-p, https://arxiv.org/abs/1904.09751), a draw.

Filters keep what TATS's (https://arxiv.org/abs/2204.03638) keep: logits that tie with the k-th, and the token with
which the nucleus reaches p. Deviation on purpose: top-p works without top-k (TATS ignores it then).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]


def filter_logits(
    logits_bv: Float[Tensor, "b v"], top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "b v"]:
    """A copy of the logits with -inf in place of those that may not be drawn.

    Args:
        top_k: keep logits that are at least the k-th largest; None, 0 or more than there are: all.
        top_p: of what top-k kept, keep the most likely that together reach this probability, at least one; None or
            1.0: all.
    """
    kept = logits_bv.shape[-1]
    filtered_bv = logits_bv.clone()
    if top_k:
        kth_b1 = logits_bv.topk(min(top_k, kept), dim=-1).values[:, -1:]
        filtered_bv.masked_fill_(logits_bv < kth_b1, -torch.inf)
    if top_p is None or top_p >= 1:
        return filtered_bv
    if top_k:
        # Sorting the survivors is enough; ties can make them more than k.
        kept = int((filtered_bv > -torch.inf).sum(-1).max())
    sorted_bk, order_bk = filtered_bv.topk(kept, dim=-1)
    before_bk = sorted_bk.softmax(-1).cumsum(-1).roll(1, dims=-1)
    before_bk[:, 0] = 0
    return filtered_bv.scatter(-1, order_bk, sorted_bk.masked_fill(before_bk > top_p, -torch.inf))


def exponential(shape: Sequence[int], generator: Generators, device: torch.device) -> Tensor:
    """Draws from the exponential distribution with mean 1; with a generator a row, rows are independent."""
    if isinstance(generator, torch.Generator):
        return torch.empty(*shape, device=generator.device).exponential_(generator=generator).to(device)
    rows = [torch.empty(*shape[1:], device=g.device).exponential_(generator=g) for g in generator]
    if len(rows) != shape[0]:
        raise ValueError(f"{len(rows)} generators for {shape[0]} rows")
    return torch.stack(rows).to(device)


def draw(probabilities_bv: Float[Tensor, "b v"], generator: Generators) -> Int[Tensor, " b"]:
    """One index a row, with the row's probabilities (any positive sum).

    Inverts the cumulative sum in float64: one uniform number a row, so a token of probability 0 is never drawn.

    Args:
        generator: for all rows, or one a row: then a row's draw does not depend on its neighbours.

    Raises:
        ValueError: as many generators as rows are needed, and there are not.
    """
    rows = probabilities_bv.shape[0]
    if isinstance(generator, torch.Generator):
        uniform_b = torch.rand(rows, generator=generator, dtype=torch.float64, device=generator.device)
    else:
        if len(generator) != rows:
            raise ValueError(f"{len(generator)} generators for {rows} rows")
        uniform_b = torch.cat([torch.rand(1, generator=g, dtype=torch.float64, device=g.device) for g in generator])
    cumulative_bv = probabilities_bv.double().cumsum(-1)
    total_b1 = cumulative_bv[:, -1:]
    at_b1 = uniform_b.to(total_b1.device).unsqueeze(1) * total_b1
    at_b1 = torch.minimum(at_b1, torch.nextafter(total_b1, torch.zeros_like(total_b1)))
    return torch.searchsorted(cumulative_bv, at_b1, right=True).squeeze(1)


def sample_logits(
    logits_bv: Float[Tensor, "b v"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    generator: Generators,
) -> Int[Tensor, " b"]:
    """A token a row, drawn from softmax(logits / temperature) after `filter_logits`; see `draw` for the generator."""
    filtered_bv = filter_logits(logits_bv.float() / temperature, top_k, top_p)
    return draw(filtered_bv.softmax(-1), generator)


def greedy(logits_bv: Float[Tensor, "b v"]) -> Int[Tensor, " b"]:
    """The most likely token of each row; the lowest, where several are."""
    return logits_bv.argmax(-1)
