"""Clips longer than the prior was trained on (TATS, https://arxiv.org/abs/2204.03638): a window that slides over time,
and a hierarchy of key frames with a second prior that fills in what lies between them.

A window begins anew at position 0: [condition, the last few latent frames], and draws the next one. Condition tokens
can be kept from being drawn in place of codes (`Draw.first_allowed`); TATS lets them: they stay in the context and
become code 0 at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from schemas.errors import UsageError
from vtok.priors.gpt import GPT
from vtok.sampling.autoregressive import sample_tokens
from vtok.sampling.interpolate import fill_tokens
from vtok.sampling.logits import Generators


class Draw(NamedTuple):
    """How tokens are drawn; see `vtok.sampling.autoregressive.sample_tokens`. Without a generator: the most likely."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: Generators | None = None
    first_allowed: int = 0


@torch.inference_mode()
def slide(
    gpt: GPT,
    condition_bn: Int[Tensor, "b c"],
    frames: int,
    area: int,
    context_frames: int,
    draw: Draw,
    first_bn: Int[Tensor, "b f"] | None = None,
    *,
    without_bn: Int[Tensor, "b c"] | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b frames area"]:
    """Tokens of `frames` latent frames of `area` codes, each drawn from the `context_frames` before it.

    Args:
        gpt: the transformer.
        condition_bn: condition tokens, at the beginning of every window.
        frames: latent frames to draw, any number.
        area: codes in a latent frame.
        context_frames: frames that a window shows; the first so many are drawn at once.
        draw: how.
        first_bn: tokens of the first latent frames, which are given.
        without_bn: condition tokens of clips without a condition, for guidance in every window; None: none.
        guidance: see `vtok.sampling.autoregressive.sample_tokens`.

    Raises:
        UsageError: a window with one more frame does not fit into the prior's block.
    """
    longest = condition_bn.shape[1] + (context_frames + 1) * area - 1
    if context_frames < 1 or longest > gpt.block_size:
        most = (gpt.block_size + 1 - condition_bn.shape[1]) // area - 1
        raise UsageError(
            f"{context_frames} latent frames of context and one more are {longest} positions; "
            f"the prior has {gpt.block_size}",
            at="sample.context_frames",
            hint=f"choose 1 to {most}",
        )

    def extend(context_bn: Tensor, steps: int) -> Tensor:
        prefix_bn = torch.cat([condition_bn, context_bn], dim=1)
        unguided_bn = None if without_bn is None else torch.cat([without_bn, context_bn], dim=1)
        options = {**draw._asdict(), "without_bn": unguided_bn, "guidance": guidance}
        return sample_tokens(gpt, prefix_bn, steps, most_likely=draw.generator is None, **options)

    given = 0 if first_bn is None else first_bn.shape[1] // area
    tokens_bn = condition_bn[:, :0] if first_bn is None else first_bn
    done = max(given, min(frames, context_frames))
    if done > given:
        tokens_bn = torch.cat([tokens_bn, extend(tokens_bn, (done - given) * area)], dim=1)
    for frame in range(done, frames):
        context_bn = tokens_bn[:, (frame - context_frames) * area :]
        tokens_bn = torch.cat([tokens_bn, extend(context_bn, area)], dim=1)
    return tokens_bn.unflatten(1, (frames, area))


@torch.inference_mode()
def fill_hierarchy(
    gpt: GPT,
    condition_bn: Int[Tensor, "b c"],
    keys_bkn: Int[Tensor, "b k n"],
    between: int,
    draw: Draw,
    *,
    tats: bool,
    without_bn: Int[Tensor, "b c"] | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b t n"]:
    """Key frames with `between` frames filled in after each but the last.

    Args:
        gpt: a transformer that interpolates.
        condition_bn: one condition token.
        keys_bkn: tokens of the key frames.
        between: latent frames between two keys.
        draw: how.
        tats: see `vtok.sampling.interpolate.fill_tokens`.
        without_bn: the condition token of clips without a condition, for guidance; None: none.
        guidance: see `vtok.sampling.autoregressive.sample_tokens`.
    """
    area = keys_bkn.shape[2]
    options = {**draw._asdict(), "without_b1": without_bn, "guidance": guidance}
    frames = [keys_bkn[:, :1]]
    for key in range(keys_bkn.shape[1] - 1):
        past_bn = torch.cat([condition_bn, keys_bkn[:, key]], dim=1)
        filled_bn = fill_tokens(gpt, past_bn, keys_bkn[:, key + 1], between * area, tats=tats, **options)
        frames += [filled_bn.unflatten(1, (between, area)), keys_bkn[:, key + 1 : key + 2]]
    return torch.cat(frames, dim=1)
