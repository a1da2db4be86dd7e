"""Clips from VideoGPT's prior, one code after the other (https://arxiv.org/abs/2104.10157).

The original draws from the whole softmax at temperature 1; temperature and filters are extras. Conditioning frames are
not pasted into the clip: it has the prior's own version of them, as in the original.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vtok.priors.videogpt import VideoGptPrior
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
) -> Int[Tensor, "b t h w"]:
    """Codes of `num` clips, drawn at once.

    Args:
        prior: in eval mode.
        num: clips.
        labels_b: a class a clip, for a label-conditional prior.
        frames_bcthw: the first `cond_frames` frames, pixels in [-0.5, 0.5], for a frame-conditional prior.
        temperature, top_k, top_p: see `vtok.sampling.logits.sample_logits`.
        generator: one for all clips, or one a clip; None: the most likely code every time.
    """
    context, cache = prior.context(labels_b, frames_bcthw), prior.new_cache(num)
    codes: list[Tensor] = []
    for position in range(math.prod(prior.grid)):
        logits_bk = prior.step(codes[-1] if codes else None, position, cache, context)
        if generator is None:
            codes.append(greedy(logits_bk))
        else:
            codes.append(sample_logits(logits_bk, temperature, top_k, top_p, generator=generator))
    return torch.stack(codes, dim=1).unflatten(1, prior.grid)
