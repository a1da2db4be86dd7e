"""Clips from a GPT prior, one code after the other (TATS, https://arxiv.org/abs/2204.03638).

Deviation on purpose: condition tokens cannot be drawn in place of codes. `parity=True` reproduces TATS, where they can,
stay in the context, and become code 0 at the end. An extra is classifier-free guidance
(https://arxiv.org/abs/2207.12598).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.errors import UsageError
from vtok.priors.gpt import GPT
from vtok.priors.tats import GptPrior
from vtok.sampling.logits import Generators, greedy, sample_logits
from vtok.tokenizers.base import Tokenizer


@torch.inference_mode()
def sample_tokens(
    gpt: GPT,
    prefix_bn: Int[Tensor, "b n"],
    steps: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    most_likely: bool = False,
    first_allowed: int = 0,
    without_bn: Int[Tensor, "b n"] | None = None,
    guidance: float = 1.0,
    boxes_bne: Float[Tensor, "b m e"] | None = None,
) -> Int[Tensor, "b steps"]:
    """The `steps` tokens that follow a prefix. Tokens are in the prior's vocabulary (codes shifted past labels).

    Args:
        prefix_bn: n >= 1 tokens; n + steps - 1 may not exceed the block size.
        generator: see `vtok.sampling.logits.draw`; not needed for `most_likely`.
        most_likely: take the most likely token every time.
        first_allowed: tokens below this one are never drawn.
        without_bn: the prefix without its condition, for guidance; None: no guidance.
        guidance: logits are without + guidance * (with - without).
        boxes_bne: of `GPT.box_positions`, for all n + steps - 1 inputs.

    Raises:
        ValueError: the block is too short, or draws are wanted without a generator.
    """
    if generator is None and not most_likely:
        raise ValueError("sampling needs a generator")
    batch, length = prefix_bn.shape
    tokens_bn = prefix_bn.new_empty(batch, steps)
    guided = without_bn is not None
    if without_bn is not None:
        prefix_bn = torch.cat([prefix_bn, without_bn])
    cache = gpt.new_cache(len(prefix_bn), length + steps - 1)
    closed = max(0, first_allowed - gpt.first_output)
    logits_bv = gpt.prefill(prefix_bn, cache, boxes_bne=None if boxes_bne is None else boxes_bne[:, :length])[:, -1]
    for i in range(steps):
        if guided:
            logits_bv = guide(logits_bv, guidance)
        if closed:
            logits_bv[:, :closed] = -torch.inf
        if most_likely or generator is None:
            token_b = greedy(logits_bv)
        else:
            token_b = sample_logits(logits_bv, temperature, top_k, top_p, generator=generator)
        token_b = token_b + gpt.first_output
        tokens_bn[:, i] = token_b
        if i + 1 < steps:
            box_be = None if boxes_bne is None else boxes_bne[:, length + i]
            logits_bv = gpt.step(torch.cat([token_b, token_b]) if guided else token_b, length + i, cache, box_be=box_be)
    return tokens_bn


def guide(logits_bv: Float[Tensor, "b2 v"], guidance: float) -> Float[Tensor, "b v"]:
    """Logits of guided draws, from those with a condition (first half of the batch) and without."""
    with_bv, without_bv = logits_bv.chunk(2)
    return without_bv + guidance * (with_bv - without_bv)


@torch.inference_mode()
def sample_codes(
    prior: GptPrior,
    *,
    num: int,
    labels_b: Int[Tensor, " b"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    greedy: bool = False,
    parity: bool = False,
    guidance: float = 1.0,
    frames: int | None = None,
    first_bthw: Int[Tensor, "b f h w"] | None = None,
) -> Int[Tensor, "b t h w"]:
    """Codes of `num` clips, drawn at once.

    Args:
        prior: in eval mode.
        num: clips.
        labels_b: a class a clip, or its condition tokens (text, audio), for a conditional prior.
        temperature: divides the logits.
        top_k: keep the k most likely tokens; None: all.
        top_p: keep the most likely tokens that together reach this probability; None: all.
        generator: one for all clips, or one a clip (then a clip does not depend on its neighbours).
        greedy: take the most likely code every time.
        parity: let condition tokens be drawn, as TATS does.
        guidance: see `sample_tokens`; 1: none.
        frames: latent frames; None: those of the prior's grid. More need rotary positions, or windows
            (`vtok.sampling.sliding`).
        first_bthw: codes of the first latent frames, which are given.

    Returns:
        int64, 0..n_codes-1.

    Raises:
        UsageError: the prior interpolates, and needs two ends (`vtok.sampling.interpolate`); or guidance is wanted of
            one that was never trained without its condition.
    """
    if prior.config.interpolation != "none":
        raise UsageError(
            "this prior fills in what lies between two latent frames; it cannot begin a clip",
            at="prior.model.interpolation",
            hint="sample from a prior with interpolation: none",
        )
    gpt, (t, h, w) = prior.transformer, prior.grid
    t = frames or t
    given_bn = torch.zeros(num, 0, dtype=torch.long, device=gpt.head.weight.device)
    if first_bthw is not None:
        given_bn = first_bthw.flatten(1).long() + prior.offset
    boxes_bne = None
    if prior.config.boxes:
        whole = torch.tensor([[0, t, 0, h, 0, w]], device=given_bn.device)
        boxes_bne = gpt.box_positions(whole[:, 2:], whole[:, :2])
    tokens_bn = sample_tokens(
        gpt,
        torch.cat([prior.condition(num, labels_b), given_bn], dim=1),
        t * h * w - given_bn.shape[1],
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        most_likely=greedy,
        first_allowed=0 if parity else prior.offset,
        without_bn=torch.cat([without(prior, num), given_bn], dim=1) if guidance != 1 else None,
        guidance=guidance,
        boxes_bne=boxes_bne,
    )
    tokens_bn = torch.cat([given_bn, tokens_bn], dim=1)
    return (tokens_bn - prior.offset).clamp(0, prior.n_codes - 1).unflatten(1, (t, h, w))


def without(prior: GptPrior, num: int) -> Int[Tensor, "b c"]:
    """The condition tokens of clips without a condition.

    Raises:
        UsageError: the prior was never trained without one.
    """
    try:
        return prior.no_condition(num)
    except ValueError as error:
        raise UsageError(
            str(error), at="sample.guidance", hint="set sample.guidance=1, or train with prior.model.condition_drop=0.1"
        ) from None


@torch.inference_mode()
def sample(
    prior: GptPrior,
    tokenizer: Tokenizer,
    *,
    num: int,
    labels_b: Int[Tensor, " b"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    greedy: bool = False,
) -> Float[Tensor, "b c t h w"]:
    """Videos in [0, 1] of `num` clips drawn by `sample_codes`; both models in eval mode."""
    codes_bthw = sample_codes(
        prior,
        num=num,
        labels_b=labels_b,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        greedy=greedy,
    )
    return tokenizer.decode(codes_bthw).clamp(-0.5, 0.5) + 0.5
