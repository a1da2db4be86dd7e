"""What a checkpoint becomes: tokenizers and a prior, as configs and tensors that fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from schemas.config.base import Config
from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from vtok.convert.settings import Settings
from vtok.priors.build import Facts, build_prior
from vtok.tokenizers.load import build_tokenizer

Tensors = dict[str, Tensor]
Checked = TypeVar("Checked", bound=Config)


@dataclass(frozen=True)
class TokenizerModel:
    """A tokenizer's architecture and all tensors of its state dict; `grid` of a clip as it was trained on, if known."""

    config: VqganConfig | VqvaeConfig
    tensors: Tensors
    grid: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class PriorModel:
    """A prior's architecture, what else it is built from, and all tensors of its state dict."""

    config: GptConfig | VideoGptConfig | MebtConfig
    tensors: Tensors
    facts: Facts


@dataclass(frozen=True)
class Models:
    """Everything of use in a checkpoint: `tokenizers` by the name of their folder, the main one is `tokenizer`."""

    tokenizers: dict[str, TokenizerModel] = field(default_factory=dict)
    prior: PriorModel | None = None


def below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """The tensors under a prefix, which is taken off."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand where the pattern has its group."""
    found = (re.match(pattern, name) for name in tensors)
    return len({match.group(1) for match in found if match})


def shape_of(tensors: Mapping[str, Tensor], name: str, what: str, at: str) -> tuple[int, ...]:
    """The shape of a tensor that has to be there.

    Raises:
        UsageError: it is not.
    """
    if name not in tensors:
        raise UsageError(f"no {what}: `{name}` is missing", at=at, hint="is it another kind of checkpoint? see --kind")
    return tuple(tensors[name].shape)


def tokenizer_model(
    config: VqganConfig | VqvaeConfig, tensors: Tensors, at: str, grid: tuple[int, int, int] | None = None
) -> TokenizerModel:
    """The tokenizer, after comparing its tensors with what the config needs; counters of batches may be missing.

    Raises:
        UsageError: tensors are missing, left over or of another shape; all are listed.
    """
    with torch.device("meta"):
        empty = build_tokenizer(config)
    given = {"codebook.initialized": torch.ones((), dtype=torch.bool), **tensors}
    return TokenizerModel(config, _fitting(empty, given, f"the {config.kind} tokenizer", at), grid)


def prior_model(config: GptConfig | VideoGptConfig | MebtConfig, tensors: Tensors, facts: Facts, at: str) -> PriorModel:
    """The prior, after comparing its tensors with what config and facts need.

    Raises:
        UsageError: tensors are missing, left over or of another shape; all are listed.
    """
    with torch.device("meta"):
        empty = build_prior(config, facts)
    assert isinstance(empty, nn.Module)
    return PriorModel(config, _fitting(empty, tensors, f"the {config.kind} prior", at), facts)


def _fitting(empty: nn.Module, tensors: Tensors, what: str, at: str) -> Tensors:
    wanted = empty.state_dict()
    full = {
        **{name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith("num_batches_tracked")},
        **tensors,
    }
    problems = [f"missing: {name} {list(wanted[name].shape)}" for name in wanted if name not in full]
    problems += [f"unexpected: {name} {list(full[name].shape)}" for name in full if name not in wanted]
    problems += [
        f"type: {name} holds {str(full[name].dtype).removeprefix('torch.')}, should be numbers with a fraction"
        for name in wanted
        if name in full and wanted[name].is_floating_point() and not full[name].is_floating_point()
    ]
    problems += [
        f"shape: {name} is {list(full[name].shape)}, should be {list(wanted[name].shape)}"
        for name in wanted
        if name in full and full[name].shape != wanted[name].shape
    ]
    if problems:
        lines = "\n  ".join(problems)
        raise UsageError(
            f"the weights do not fit {what}, in {len(problems)} places:\n  {lines}",
            at=at,
            hint="force another kind with --kind, or give settings that the checkpoint does not hold with --set",
        )
    if spoilt := [name for name in wanted if not bool(torch.isfinite(full[name]).all())]:
        raise UsageError(
            f"the weights of {what} are spoilt: NaN or infinity in {', '.join(spoilt[:12])}, {len(spoilt)} tensors",
            at=at,
            hint="its training had diverged: take an earlier checkpoint",
        )
    return {name: full[name].to(wanted[name].dtype) for name in wanted}


def factors_between(settings: Settings, frames: int | None, grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """Downsampling of an embedded tokenizer: as it is said, or a clip's size divided by its grid of codes.

    Args:
        frames: of a clip, as the tokenizer sees it; None: not known.

    Raises:
        UsageError: it is not known, or what is said contradicts the grid.
    """
    given = settings.get("downsample")
    if given is None:
        why = "the embedded tokenizer's downsampling follows from the size of a clip"
        settings.need("sequence_length", why)
        settings.need("resolution", why)
    length, side = frames or 0, settings.count("resolution") or 0
    sizes = (length, side, side)
    given = given if given is not None else [size // codes for size, codes in zip(sizes, grid, strict=True)]
    factors = triple(given, "downsample", settings.at)
    if length and side and tuple(size // factor for size, factor in zip(sizes, factors, strict=True)) != grid:
        raise UsageError(
            f"{length} frames of {side} px, downsampled by {list(factors)}, are not the grid of {list(grid)} codes "
            "that the prior has",
            at=settings.at,
            hint="sequence_length, resolution and downsample can be set with --set",
        )
    return factors


def config_of(model: type[Checked], values: Mapping[str, Any], at: str) -> Checked:
    """A config of these values.

    Raises:
        UsageError: some are out of bounds; all are listed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
        ]
        raise UsageError(f"these settings make no {model.__name__}: {'; '.join(wrong)}", at=at) from None


def triple(value: Any, name: str, at: str) -> tuple[int, int, int]:
    """Three whole numbers: time, height, width.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(n, int) and n > 0 for n in value):
        t, h, w = value
        return t, h, w
    raise UsageError(f"`{name}` is not three whole numbers: {value!r}", at=at, hint=f"for example {name}=[4,8,8]")
