"""Converted models as artefact folders, like those that `vtok train` leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from schemas.card import Card, Plan
from vtok import artefacts
from vtok.convert.checkpoint import Checkpoint
from vtok.convert.models import PriorModel, TokenizerModel
from vtok.priors.build import describe
from vtok.tokenizers.load import build_tokenizer
from vtok.weights import write_weights


def write_tokenizer(folder: Path, model: TokenizerModel, source: Checkpoint, kind: str) -> Card:
    """Writes a tokenizer's weights, description and card; does nothing if they are there.

    Raises:
        UsageError: the folder holds something else.
    """
    plan = artefacts.make_plan("tokenizer", {"model": model.config.plain(), "converted": kind}, _inputs(source), [])
    card = artefacts.begin(folder, plan)
    if card is not None:
        return card
    with torch.device("meta"):
        tokenizer = build_tokenizer(model.config)
    tokenizer.load_state_dict(model.tensors, assign=True)
    digest = write_weights(folder, "tokenizer", model.tensors, {"model": model.config.plain()})
    facts: dict[str, Any] = {
        "fingerprint": tokenizer.eval().fingerprint,
        "codebook_size": model.config.n_codes,
        "downsample": list(model.config.downsample),
        "converted": kind,
        **_origin(source),
    }
    if model.grid is not None:
        facts["grid"] = list(model.grid)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    return _seal(folder, plan, "tokenizer", digest, parameters, facts, source)


def write_prior(folder: Path, model: PriorModel, tokenizer: str, source: Checkpoint, kind: str) -> Card:
    """Writes a prior's weights, description and card; does nothing if they are there.

    Args:
        tokenizer: fingerprint of the tokenizer whose codes it models; empty: not known.

    Raises:
        UsageError: the folder holds something else.
    """
    inputs = {**_inputs(source), "tokenizer": tokenizer}
    plan = artefacts.make_plan("prior", {"model": model.config.plain(), "converted": kind}, inputs, [])
    card = artefacts.begin(folder, plan)
    if card is not None:
        return card
    classes = [str(number) for number in range(model.facts.n_classes)]
    description = describe(model.config, model.facts, classes, tokenizer, None)
    digest = write_weights(folder, "prior", model.tensors, description)
    facts = {
        "tokenizer": tokenizer,
        "grid": list(model.facts.grid),
        "classes": classes,
        "converted": kind,
        **_origin(source),
    }
    parameters = sum(tensor.numel() for name, tensor in model.tensors.items() if name != "codebook_kc")
    return _seal(folder, plan, "prior", digest, parameters, facts, source)


def _inputs(source: Checkpoint) -> dict[str, str]:
    return {"checkpoint": source.sha256}


def _origin(source: Checkpoint) -> dict[str, Any]:
    """The checkpoint's own words about itself."""
    return {"checkpoint_sha256": source.sha256, "checkpoint": dict(sorted(source.facts.items()))}


def _seal(
    folder: Path,
    plan: Plan,
    name: str,
    digest: str,
    parameters: int,
    facts: dict[str, Any],
    source: Checkpoint,
) -> Card:
    steps = source.facts.get("global_step", 0)
    counts = {
        "steps": steps if isinstance(steps, int) else 0,
        "parameters": parameters,
        "bytes": (folder / f"{name}.safetensors").stat().st_size,
    }
    return artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)
