"""Whole pictures from a prior that was trained on crops of them, with their places (TATS's sliding window over time,
height and width, https://arxiv.org/abs/2204.03638).

Codes are drawn one by one in raster order of the whole clip. Each is drawn from a crop of the trained size that has it
in its middle, or nearer to the edge where the clip ends; the crop's place enters as its box. The original passes whole
crops, blank where nothing is drawn yet; what comes after a code is invisible to it, so here a crop ends before it.
Where a clip is longer than the table of places, the crops of its end all stand at the table's end (the original has
tables as long as a crop).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import guide
from vtok.sampling.logits import greedy, sample_logits
from vtok.sampling.sliding import Draw

Place = tuple[int, int, int]


class Crop(NamedTuple):
    """Where a code is drawn.

    Attributes:
        start: first code (t, h, w) of the crop, in the clip.
        size: codes (t, h, w) of the crop.
        inside: place (t, h, w) of the code, in the crop.
    """

    start: Place
    size: Place
    inside: Place

    @property
    def number(self) -> int:
        """Codes of the crop that come before this one."""
        (t, h, w), (_, height, width) = self.inside, self.size
        return (t * height + h) * width + w


def place_in_window(place: int, total: int, window: int, middle: int) -> int:
    """Where in its window a place of an axis lies: `middle`, but nearer to the ends where the axis ends."""
    if place <= middle:
        return place
    return max(middle, window - (total - place))


def crops(total: Place, size: Place, context_frames: int) -> Iterator[tuple[Place, Crop]]:
    """Every place of a clip in raster order, and the crop that it is drawn in.

    Args:
        total: codes (t, h, w) of the clip.
        size: of the crops; no larger than the clip.
        context_frames: latent frames before a code that its crop shows, where there are.
    """
    middle = (min(context_frames, size[0] - 1), size[1] // 2, size[2] // 2)
    for t in range(total[0]):
        for h in range(total[1]):
            for w in range(total[2]):
                here = (t, h, w)
                ti, hi, wi = (place_in_window(*axis) for axis in zip(here, total, size, middle, strict=True))
                yield here, Crop((t - ti, h - hi, w - wi), size, (ti, hi, wi))


@torch.inference_mode()
def draw_picture(
    prior: GptPrior,
    condition_b1: Int[Tensor, "b 1"],
    total: Place,
    context_frames: int,
    draw: Draw,
    first_bthw: Int[Tensor, "b f h w"] | None = None,
    *,
    without_b1: Int[Tensor, "b 1"] | None = None,
    guidance: float = 1.0,
) -> Int[Tensor, "b t h w"]:
    """Tokens of clips of any size; one pass over a crop's codes for each, so this is slow.

    Args:
        prior: with boxes, in eval mode.
        condition_b1: condition tokens.
        total: codes (t, h, w) of a clip; height and width no larger than the table of places.
        context_frames: see `crops`.
        draw: how; its `first_allowed` is a token.
        first_bthw: tokens of the first latent frames, which are given.
        without_b1: condition tokens of clips without a condition, for guidance; None: none.
        guidance: see `vtok.sampling.autoregressive.sample_tokens`.
    """
    gpt = prior.transformer
    tokens_bthw = condition_b1.new_zeros(len(condition_b1), *total)
    given = 0
    if first_bthw is not None:
        given = first_bthw.shape[1]
        tokens_bthw[:, :given] = first_bthw
    t, h, w = (min(side, whole) for side, whole in zip(prior.grid, total, strict=True))
    start_b1 = condition_b1 if without_b1 is None else torch.cat([condition_b1, without_b1])
    closed = max(0, draw.first_allowed - gpt.first_output)
    for here, crop in crops(total, (t, h, w), context_frames):
        if here[0] < given:
            continue
        (t0, h0, w0), before = crop.start, crop.number
        seen_bn = tokens_bthw[:, t0 : t0 + t, h0 : h0 + h, w0 : w0 + w].flatten(1)[:, :before]
        if without_b1 is not None:
            seen_bn = torch.cat([seen_bn, seen_bn])
        t_box = min(t0, gpt.vtokens_pos_emb.shape[1] - t)
        box = torch.tensor([[h0, h0 + h, w0, w0 + w], [t_box, t_box + t, 0, 0]], device=seen_bn.device)
        boxes_bne = gpt.box_positions(box[:1], box[1:, :2])[:, : before + 1]
        logits_bv = gpt.following(torch.cat([start_b1, seen_bn], dim=1), boxes_bne=boxes_bne)
        if without_b1 is not None:
            logits_bv = guide(logits_bv, guidance)
        logits_bv[:, :closed] = -torch.inf
        if draw.generator is None:
            token_b = greedy(logits_bv)
        else:
            token_b = sample_logits(logits_bv, draw.temperature, draw.top_k, draw.top_p, generator=draw.generator)
        tokens_bthw[:, here[0], here[1], here[2]] = token_b + gpt.first_output
    return tokens_bthw
