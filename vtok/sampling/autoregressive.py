"""Clips from a GPT prior, one code after the other (TATS, https://arxiv.org/abs/2204.03638).

Deviation on purpose: condition tokens cannot be drawn in place of codes. `parity=True` reproduces TATS, where they can,
stay in the context, and become code 0 at the end.
"""

from __future__ import annotations

import math

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
) -> Int[Tensor, "b steps"]:
    """The `steps` tokens that follow a prefix. Tokens are in the prior's vocabulary (codes shifted past labels).

    Args:
        prefix_bn: n >= 1 tokens; n + steps - 1 may not exceed the block size.
        generator: see `vtok.sampling.logits.draw`; not needed for `most_likely`.
        most_likely: take the most likely token every time.
        first_allowed: tokens below this one are never drawn.

    Raises:
        ValueError: the block is too short, or draws are wanted without a generator.
    """
    if generator is None and not most_likely:
        raise ValueError("sampling needs a generator")
    batch, length = prefix_bn.shape
    cache = gpt.new_cache(batch, length + steps - 1)
    tokens_bn = prefix_bn.new_empty(batch, steps)
    logits_bv = gpt.prefill(prefix_bn, cache)[:, -1]
    for i in range(steps):
        if first_allowed:
            logits_bv[:, :first_allowed] = -torch.inf
        if most_likely or generator is None:
            token_b = greedy(logits_bv)
        else:
            token_b = sample_logits(logits_bv, temperature, top_k, top_p, generator=generator)
        tokens_bn[:, i] = token_b
        if i + 1 < steps:
            logits_bv = gpt.step(token_b, length + i, cache)
    return tokens_bn


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
) -> Int[Tensor, "b t h w"]:
    """Codes of `num` clips, drawn at once.

    Args:
        prior: in eval mode.
        num: clips.
        labels_b: a class a clip, for a label-conditional prior.
        temperature: divides the logits.
        top_k: keep the k most likely tokens; None: all.
        top_p: keep the most likely tokens that together reach this probability; None: all.
        generator: one for all clips, or one a clip (then a clip does not depend on its neighbours).
        greedy: take the most likely code every time.
        parity: let condition tokens be drawn, as TATS does.

    Returns:
        int64, 0..n_codes-1.

    Raises:
        UsageError: the prior interpolates, and needs two ends (`vtok.sampling.interpolate`).
    """
    if prior.config.interpolation != "none":
        raise UsageError(
            "this prior fills in what lies between two latent frames; it cannot begin a clip",
            at="prior.model.interpolation",
            hint="sample from a prior with interpolation: none",
        )
    tokens_bn = sample_tokens(
        prior.transformer,
        prior.condition(num, labels_b),
        math.prod(prior.grid),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        most_likely=greedy,
        first_allowed=0 if parity else prior.offset,
    )
    return (tokens_bn - prior.offset).clamp(0, prior.n_codes - 1).unflatten(1, prior.grid)


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
