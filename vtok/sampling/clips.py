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
from vtok.priors.base import Batch, Prior
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior
from vtok.priors.videogpt import VideoGptPrior
from vtok.sampling.autoregressive import sample_codes
from vtok.sampling.interpolate import fill_codes
from vtok.sampling.masked import sample_mebt
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
        return fill_codes(prior, codes_bthw[:, 0], codes_bthw[:, -1], labels_b=condition, **drawing)
    (t, h, w), frames = prior.grid, config.latent_frames or prior.grid[0]
    first = codes_bthw[:, : config.given_frames] if config.given_frames else None
    if frames <= t or prior.config.positions == "rope":
        return sample_codes(
            prior, num=num, labels_b=condition, frames=frames, first_bthw=first, guidance=config.guidance, **drawing
        )
    if config.guidance != 1:
        raise UsageError("guidance does not work with windows", at="sample.guidance", hint="set it to 1")
    if prior.config.boxes:
        raise UsageError("a prior with boxes draws no windows", at="sample.latent_frames", hint=f"choose at most {t}")
    tokens_btn = slide(
        prior.transformer,
        prior.condition(num, condition),
        frames,
        h * w,
        config.context_frames,
        Draw(first_allowed=prior.offset, **drawing),
        None if first is None else first.flatten(1).long() + prior.offset,
    )
    return (tokens_btn - prior.offset).unflatten(2, (h, w))


def _videogpt(prior: VideoGptPrior, given: Batch, config: SampleConfig, generators: list[torch.Generator]) -> Tensor:
    for name, value, default in (
        ("guidance", config.guidance, 1),
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
    tokens_btn = fill_hierarchy(
        fill.transformer,
        fill.condition(len(keys_bthw), condition),
        keys_bthw.flatten(2) + fill.offset,
        math.prod(fill.grid) // area - 2,
        draw,
        tats=fill.config.interpolation == "tats",
    )
    return (tokens_btn - fill.offset).clamp(0, fill.n_codes - 1).unflatten(2, fill.grid[1:])
