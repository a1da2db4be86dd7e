"""Clips from VideoGPT's prior, one code after the other (https://arxiv.org/abs/2104.10157).

The original draws from the whole softmax at temperature 1; temperature, filters and classifier-free guidance
(https://arxiv.org/abs/2207.12598) are extras. Conditioning frames are
not pasted into the clip: it has the prior's own version of them, as in the original.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.errors import UsageError
from vtok.priors.videogpt import VideoGptPrior
from vtok.sampling.autoregressive import guide
from vtok.sampling.logits import Generators, greedy, sample_logits


@torch.inference_mode()
def sample_videogpt(
    prior: VideoGptPrior,
    *,
    num: int,
    labels_b: Int[Tensor, " b"] | None = None,
    frames_bcthw: Float[Tensor, "b 3 f r r"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generators | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b t h w"]:
    """Codes of `num` clips, drawn at once.

    Args:
        prior: in eval mode.
        num: clips.
        labels_b: a class a clip, for a label-conditional prior.
        frames_bcthw: the first `cond_frames` frames, pixels in [-0.5, 0.5], for a frame-conditional prior.
        temperature, top_k, top_p: see `vtok.sampling.logits.sample_logits`.
        generator: one for all clips, or one a clip; None: the most likely code every time.
        guidance: towards the class, from clips with the same frames and no class; 1: none.

    Raises:
        UsageError: guidance is wanted of a prior that was never trained without its class.
    """
    guided = guidance != 1
    if guided:
        labels_b = with_and_without(prior, labels_b)
        frames_bcthw = None if frames_bcthw is None else torch.cat([frames_bcthw, frames_bcthw])
    context, cache = prior.context(labels_b, frames_bcthw), prior.new_cache(2 * num if guided else num)
    codes: list[Tensor] = []
    for position in range(math.prod(prior.grid)):
        last_b = codes[-1] if codes else None
        if guided:
            doubled_b = None if last_b is None else torch.cat([last_b, last_b])
            logits_bk = guide(prior.step(doubled_b, position, cache, context), guidance)
        else:
            logits_bk = prior.step(last_b, position, cache, context)
        if generator is None:
            codes.append(greedy(logits_bk))
        else:
            codes.append(sample_logits(logits_bk, temperature, top_k, top_p, generator=generator))
    return torch.stack(codes, dim=1).unflatten(1, prior.grid)


def with_and_without(prior: VideoGptPrior, labels_b: Int[Tensor, " b"] | None) -> Int[Tensor, " b2"]:
    """The classes of the clips, and as often no class.

    Raises:
        UsageError: the prior has none, or was never trained without one.
    """
    if labels_b is None or not prior.config.condition_drop:
        raise UsageError(
            "guidance needs a prior that was trained with condition_drop",
            at="sample.guidance",
            hint="set sample.guidance=1, or train with prior.model.condition=label and condition_drop=0.1",
        )
    return torch.cat([labels_b, torch.full_like(labels_b, prior.no_class)])
