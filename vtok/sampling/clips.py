"""Codes of clips from a prior of any kind, by the options of section `sample`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from schemas.config.prior import SampleConfig
from schemas.errors import UsageError
from vtok.priors.base import Batch, Prior, Shape
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior
from vtok.priors.videogpt import VideoGptPrior
from vtok.sampling.autoregressive import sample_codes, without
from vtok.sampling.interpolate import fill_codes
from vtok.sampling.masked import sample_mebt
from vtok.sampling.picture import draw_picture
from vtok.sampling.sliding import Draw, fill_hierarchy, slide
from vtok.sampling.videogpt import sample_videogpt


def draw_clips(
    prior: Prior,
    given: Batch,
    config: SampleConfig,
    generators: Sequence[torch.Generator],
    fill: GptPrior | None = None,
) -> Int[Tensor, "b t h w"]:
    """Codes of as many clips as there are generators.

    Args:
        prior: in eval mode.
        given: what the clips are conditioned on; of `codes_bthw`, the first `config.given_frames` latent frames are
            used, and the last one by priors that interpolate.
        config: how to draw.
        generators: one a clip: a clip does not depend on those that are drawn with it.
        fill: a prior that interpolates and fills in what lies between the latent frames that were drawn.

    Raises:
        UsageError: prior and options do not fit.
    """
    codes_bthw = _DRAWERS[type(prior)](prior, given, config, list(generators))
    if fill is None:
        return codes_bthw
    return _filled(fill, codes_bthw, _condition(fill, given), config, list(generators))


def needs_codes(prior: Prior, config: SampleConfig) -> bool:
    """Whether clips of the token store must be given."""
    interpolates = isinstance(prior, GptPrior) and prior.config.interpolation != "none"
    return interpolates or config.given_frames > 0


def _condition(prior: GptPrior, given: Batch) -> Tensor | None:
    return {"label": given.labels_b, "text": given.text_bn, "audio": given.audio_bn, "none": None}[
        prior.config.condition
    ]


def _gpt(prior: GptPrior, given: Batch, config: SampleConfig, generators: list[torch.Generator]) -> Tensor:
    drawing: dict[str, Any] = {
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "generator": generators,
    }
    condition, num = _condition(prior, given), len(generators)
    codes_bthw = given.codes_bthw[:, :: prior.config.latent_stride]
    if prior.config.interpolation != "none":
        ends = codes_bthw[:, 0], codes_bthw[:, -1]
        return fill_codes(prior, *ends, labels_b=condition, guidance=config.guidance, **drawing)
    t, h, w = prior.grid
    whole = prior.config.box_grid or prior.grid
    total = (config.latent_frames or whole[0], *whole[1:]) if prior.config.boxes else (config.latent_frames or t, h, w)
    if prior.config.boxes and (total[0] > t or total[1:] != (h, w)):
        draw = Draw(first_allowed=prior.offset, **drawing)
        return _picture(prior, total, num, condition, codes_bthw[:, : config.given_frames], config, draw)
    frames = total[0]
    first = codes_bthw[:, : config.given_frames] if config.given_frames else None
    if frames <= t or prior.config.positions == "rope":
        return sample_codes(
            prior, num=num, labels_b=condition, frames=frames, first_bthw=first, guidance=config.guidance, **drawing
        )
    tokens_btn = slide(
        prior.transformer,
        prior.condition(num, condition),
        frames,
        h * w,
        config.context_frames,
        Draw(first_allowed=prior.offset, **drawing),
        None if first is None else first.flatten(1).long() + prior.offset,
        without_bn=without(prior, num) if config.guidance != 1 else None,
        guidance=config.guidance,
    )
    return (tokens_btn - prior.offset).unflatten(2, (h, w))


def _picture(
    prior: GptPrior,
    total: Shape,
    num: int,
    condition: Tensor | None,
    first_bthw: Tensor,
    config: SampleConfig,
    draw: Draw,
) -> Tensor:
    """Clips of the size that crops were cut out of, from a prior of crops."""
    if first_bthw.shape[1] and tuple(first_bthw.shape[2:]) != total[1:]:
        raise UsageError(
            f"given frames are of {tuple(first_bthw.shape[2:])} codes, the prior's clips of {total[1:]}",
            at="sample.given_frames",
        )
    tokens_bthw = draw_picture(
        prior,
        prior.condition(num, condition),
        total,
        config.context_frames,
        draw,
        first_bthw.long() + prior.offset if first_bthw.shape[1] else None,
        without_b1=without(prior, num) if config.guidance != 1 else None,
        guidance=config.guidance,
    )
    return tokens_bthw - prior.offset


def _videogpt(prior: VideoGptPrior, given: Batch, config: SampleConfig, generators: list[torch.Generator]) -> Tensor:
    for name, value, default in (
        ("given_frames", config.given_frames, 0),
        ("latent_frames", config.latent_frames or prior.grid[0], prior.grid[0]),
    ):
        if value != default:
            raise UsageError(
                f"VideoGPT's prior has no use for {name} {value}", at=f"sample.{name}", hint=f"set it to {default}"
            )
    return sample_videogpt(
        prior,
        num=len(generators),
        labels_b=given.labels_b if prior.config.condition == "label" else None,
        frames_bcthw=None if given.frames_bcthw is None else given.frames_bcthw[:, :, : prior.config.cond_frames],
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        generator=generators,
        guidance=config.guidance,
    )


def _mebt(prior: MebtPrior, given: Batch, config: SampleConfig, generators: list[torch.Generator]) -> Tensor:
    first = given.codes_bthw[:, : config.given_frames] if config.given_frames else None
    labels_b = given.labels_b if prior.config.condition == "label" else None
    return sample_mebt(prior, config, generators, labels_b, first)


_DRAWERS: dict[type, Callable[[Any, Batch, SampleConfig, list[torch.Generator]], Tensor]] = {
    GptPrior: _gpt,
    VideoGptPrior: _videogpt,
    MebtPrior: _mebt,
}


def _filled(
    fill: GptPrior, keys_bthw: Tensor, condition: Tensor | None, config: SampleConfig, generators: list[torch.Generator]
) -> Tensor:
    """The key frames with what lies between them."""
    if fill.config.interpolation == "none":
        raise UsageError("the prior that is to fill in frames does not interpolate", at="sample.fill")
    if fill.grid[1:] != tuple(keys_bthw.shape[2:]):
        raise UsageError(
            f"one prior has latent frames of {tuple(keys_bthw.shape[2:])} codes, the other of {fill.grid[1:]}",
            at="sample.fill",
        )
    area = math.prod(fill.grid[1:])
    draw = Draw(config.temperature, config.top_k, config.top_p, generators, fill.offset)
    guided = config.guidance != 1 and fill.config.condition_drop > 0
    tokens_btn = fill_hierarchy(
        fill.transformer,
        fill.condition(len(keys_bthw), condition),
        keys_bthw.flatten(2) + fill.offset,
        math.prod(fill.grid) // area - 2,
        draw,
        tats=fill.config.interpolation == "tats",
        without_bn=without(fill, len(keys_bthw)) if guided else None,
        guidance=config.guidance,
    )
    return (tokens_btn - fill.offset).clamp(0, fill.n_codes - 1).unflatten(2, fill.grid[1:])
