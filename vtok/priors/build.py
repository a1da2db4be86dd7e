"""A prior of any kind from its config and the facts of the token store that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor

from schemas.config.prior import GptConfig, MebtConfig, PriorModelConfig, VideoGptConfig
from schemas.errors import VtokError
from vtok.priors.base import ModelConfig, Shape
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior
from vtok.priors.videogpt import VideoGptPrior

AnyPrior = GptPrior | VideoGptPrior | MebtPrior


class Facts(NamedTuple):
    """What a prior must know besides its config.

    Attributes:
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip of the store.
        n_classes: class labels of the store.
        resolution: height and width of the clips' frames, pixels; 0: not known.
        codebook: gives the tokenizer's embeddings (n_codes, c); None: they cannot be had.
    """

    n_codes: int
    grid: Shape
    n_classes: int = 0
    resolution: int = 0
    codebook: Callable[[], Tensor] | None = None


def build_prior(config: ModelConfig, facts: Facts, generator: torch.Generator | None = None) -> AnyPrior:
    """A new prior of the config's kind.

    Args:
        config: the architecture.
        facts: what it is for.
        generator: draws the initial weights; None: a generator with seed 0.

    Raises:
        VtokError: config and facts do not fit.
    """
    return BUILDERS[config.kind](config, facts, generator)


def _gpt(config: GptConfig, facts: Facts, generator: torch.Generator | None) -> AnyPrior:
    return GptPrior(config, facts.n_codes, facts.grid, facts.n_classes, generator=generator)


def _videogpt(config: VideoGptConfig, facts: Facts, generator: torch.Generator | None) -> AnyPrior:
    if facts.codebook is None:
        raise VtokError(
            "VideoGPT's prior reads the tokenizer's codebook, and there is no tokenizer",
            at="prior.model.kind",
            hint="put the tokenizer that made the token store into the run's folder",
        )
    if config.cond_frames and not facts.resolution:
        raise VtokError("the size of the conditioning frames is not known", at="prior.model.cond_frames")
    return VideoGptPrior(config, facts.codebook(), facts.grid, facts.n_classes, facts.resolution, generator)


def _mebt(config: MebtConfig, facts: Facts, generator: torch.Generator | None) -> AnyPrior:
    return MebtPrior(config, facts.n_codes, facts.grid, generator, facts.n_classes)


BUILDERS: dict[str, Callable[[Any, Facts, torch.Generator | None], AnyPrior]] = {
    "gpt": _gpt,
    "videogpt": _videogpt,
    "mebt": _mebt,
}


def describe(
    config: ModelConfig, facts: Facts, classes: list[str], tokenizer: str, text_sha256: str | None
) -> dict[str, Any]:
    """What is kept beside a prior's weights: all that is needed to build it again."""
    return {
        "model": config.plain(),
        "n_codes": facts.n_codes,
        "grid": list(facts.grid),
        "classes": classes,
        "resolution": facts.resolution,
        "tokenizer": tokenizer,
        "text_tokenizer_sha256": text_sha256,
    }


def rebuild(description: dict[str, Any], tensors: dict[str, Tensor]) -> AnyPrior:
    """The prior that `describe` described, with its weights."""
    model = dict(description["model"])
    config: ModelConfig = TypeAdapter(PriorModelConfig).validate_python(model)
    t, h, w = description["grid"]
    facts = Facts(
        description["n_codes"],
        (t, h, w),
        len(description["classes"]),
        description.get("resolution", 0),
        lambda: tensors["codebook_kc"],
    )
    prior = build_prior(config, facts)
    prior.load_state_dict(tensors)
    return prior
