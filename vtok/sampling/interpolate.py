"""The frames between two given ones, one code after the other (TATS, https://arxiv.org/abs/2204.03638).

The default trains and samples alike: condition, last frame and first frame come before what lies between them, all seen
by all, each code at its own position. `tats` is how TATS's checkpoints are sampled (vqgan-gpt-video,
https://github.com/eminorhan/vqgan-gpt-video): the last frame stands one position earlier than in training, and the
first code is drawn from the logits of the last frame's last code.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from schemas.errors import UsageError
from vtok.priors.attention import KVCache, prefix_visible
from vtok.priors.gpt import GPT
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import guide, without
from vtok.sampling.logits import Generators, greedy, sample_logits


@torch.inference_mode()
def fill_tokens(
    gpt: GPT,
    past_bn: Int[Tensor, "b p"],
    future_bn: Int[Tensor, "b f"],
    steps: int,
    *,
    tats: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    first_allowed: int = 0,
    without_b1: Int[Tensor, "b 1"] | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b steps"]:
    """The tokens between a past and a future.

    Args:
        past_bn: condition token and first frame, in the prior's vocabulary.
        future_bn: last frame.
        steps: tokens between them.
        tats: with the original's positions and first token.
        temperature, top_k, top_p, first_allowed: see `vtok.sampling.autoregressive.sample_tokens`.
        generator: see `vtok.sampling.logits.draw`; None: take the most likely token every time.
        without_b1: the condition token of clips without a condition, for guidance; None: none.
        guidance: see `vtok.sampling.autoregressive.sample_tokens`.
    """
    clips = len(past_bn)
    if without_b1 is not None:
        past_bn = torch.cat([past_bn, torch.cat([without_b1, past_bn[:, 1:]], dim=1)])
        future_bn = torch.cat([future_bn, future_bn])
    batch, past = past_bn.shape
    future = future_bn.shape[1]
    given = past + future
    cache: KVCache = gpt.new_cache(batch, given + steps - 1)
    device = past_bn.device
    if tats:
        ends = torch.arange(gpt.block_size - future, gpt.block_size, device=device)
        positions_n = torch.cat([torch.arange(past, device=device), ends])
        logits_bnv = gpt.prefill(torch.cat([past_bn, future_bn], dim=1), cache, positions_n=positions_n)
    else:
        tokens_bn, positions_n = arrange(past_bn, future_bn, past + steps)
        mask_nn = prefix_visible(given, given, device)
        logits_bnv = gpt.prefill(tokens_bn, cache, positions_n=positions_n, mask_nn=mask_nn)
    logits_bv = logits_bnv[:, -1]
    drawn_bn = past_bn.new_empty(clips, steps)
    for i in range(steps):
        if without_b1 is not None:
            logits_bv = guide(logits_bv, guidance)
        logits_bv[:, : max(0, first_allowed - gpt.first_output)] = -torch.inf
        if generator is None:
            token_b = greedy(logits_bv)
        else:
            token_b = sample_logits(logits_bv, temperature, top_k, top_p, generator=generator)
        token_b = token_b + gpt.first_output
        drawn_bn[:, i] = token_b
        if i + 1 < steps:
            fed_b = token_b if without_b1 is None else torch.cat([token_b, token_b])
            logits_bv = gpt.step(fed_b, given + i, cache, position=past + i)
    return drawn_bn


def arrange(
    past_bn: Int[Tensor, "b p"], future_bn: Int[Tensor, "b f"], future_position: int
) -> tuple[Int[Tensor, "b n"], Int[Tensor, " n"]]:
    """Condition token, future, rest of the past; and the position of each."""
    device = past_bn.device
    tokens_bn = torch.cat([past_bn[:, :1], future_bn, past_bn[:, 1:]], dim=1)
    ends = torch.arange(future_position, future_position + future_bn.shape[1], device=device)
    begin = torch.arange(past_bn.shape[1], device=device)
    return tokens_bn, torch.cat([begin[:1], ends, begin[1:]])


@torch.inference_mode()
def fill_codes(
    prior: GptPrior,
    first_bhw: Int[Tensor, "b h w"],
    last_bhw: Int[Tensor, "b h w"],
    *,
    labels_b: Int[Tensor, " b"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b t h w"]:
    """A clip's codes whose first and last latent frame are given.

    Args:
        prior: trained to interpolate, in eval mode.
        first_bhw, last_bhw: codes of the ends.
        labels_b: a class a clip, for a label-conditional prior.
        temperature, top_k, top_p, generator: see `fill_tokens`.
        guidance: see `vtok.sampling.autoregressive.sample_tokens`; 1: none.

    Raises:
        UsageError: the prior does not interpolate; or guidance is wanted of one that was never trained without its
            condition.
    """
    if prior.config.interpolation == "none":
        raise UsageError(
            "this prior does not interpolate", at="prior.model.interpolation", hint="train one with it set to prefix"
        )
    area = math.prod(prior.grid[1:])
    first_bn, last_bn = (ends.flatten(1).long() + prior.offset for ends in (first_bhw, last_bhw))
    between_bn = fill_tokens(
        prior.transformer,
        torch.cat([prior.condition(len(first_bn), labels_b), first_bn], dim=1),
        last_bn,
        math.prod(prior.grid) - 2 * area,
        tats=prior.config.interpolation == "tats",
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        first_allowed=prior.offset,
        without_b1=without(prior, len(first_bn)) if guidance != 1 else None,
        guidance=guidance,
    )
    codes_bn = torch.cat([first_bn, between_bn, last_bn], dim=1) - prior.offset
    return codes_bn.clamp(0, prior.n_codes - 1).unflatten(1, prior.grid)
