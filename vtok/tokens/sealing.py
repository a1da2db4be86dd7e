"""What a store's card says, from its plan and parts alone, so that a lost card can be made again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.card import Plan
from schemas.config.base import fingerprint
from vtok.artefacts import Part
from vtok.parquet import read_metadata
from vtok.tokens.parts import unpack_usage


def contents_fingerprint(contents: Mapping[str, str]) -> str:
    """sha256 over what every part is made from.

    Args:
        contents: name of each part, and the fingerprint of everything that decides its bytes.
    """
    return fingerprint(dict(contents))


def sealable(plan: Plan) -> bool:
    """Whether plan and parts tell all that the card says; older versions wrote plans that do not."""
    return "contents" in plan.config or ("imported" in plan.config and "classes" in plan.config)


def view_of(plan: Plan, part: str) -> dict[str, Any]:
    """The plan's entry for the view that a part holds, by the part's name."""
    name = part.removesuffix(".parquet").partition(".")[2] or "whole"
    return next(dict(view) for view in plan.config["views"] if view["name"] == name)


def store_facts(folder: Path, plan: Plan, parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
    """Counts and facts of a card.

    Args:
        folder: the store; its parts' footers are read where sounds were encoded.
        plan: of `vtok tokenize` or `vtok tokens import`.
        parts: all of them.
    """
    config = plan.config
    if "imported" in config:
        return _imported(folder, plan, parts)
    grids = [view["grid"] for view in config["views"]]
    tokens = sum(part.rows * math.prod(view_of(plan, part.path)["grid"]) for part in parts)
    counts = {"clips": sum(part.rows for part in parts), "tokens": tokens, "parts": len(parts)}
    facts = {
        "tokenizer": config["tokenizer"],
        "codebook_size": config["codebook_size"],
        "grid": grids[0] if all(grid == grids[0] for grid in grids) else None,
        "mode": config["mode"],
        "classes": config["classes"],
        "views": config["views"],
    }
    if "audio" in config:
        sounds = [view["audio_grid"] for view in config["views"]]
        same = all(grid == sounds[0] for grid in sounds)
        made_by = {name: value for name, value in config["audio"].items() if name != "silent"}
        facts["audio"] = {**made_by, "grid": sounds[0] if same else None}
        facts["audio_codebook_size"] = config["audio"]["codebook_size"]
        counts["silent"] = sum(read_metadata(folder / part.path, ("audio",))["audio"]["silent"] for part in parts)
    return counts, facts


def _imported(folder: Path, plan: Plan, parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
    """The same of an imported store, whose rows may be of any views and grids: the footers say of which."""
    config = plan.config
    footers = [read_metadata(folder / part.path, ("grid", "usage")) for part in parts]
    grids = [footer["grid"] for footer in footers]
    tokens = sum(int(unpack_usage(footer["usage"], config["codebook_size"]).sum()) for footer in footers)
    counts = {"clips": sum(part.rows for part in parts), "tokens": tokens, "parts": len(parts)}
    facts = {
        "tokenizer": config["tokenizer"],
        "codebook_size": config["codebook_size"],
        "audio_codebook_size": config["audio_codebook_size"],
        "grid": grids[0] if all(grid == grids[0] for grid in grids) else None,
        "mode": config["mode"],
        "classes": config["classes"],
        "imported_from": config["imported"],
    }
    if "audio" in config:
        facts["audio"] = config["audio"]
        counts["silent"] = sum(footer["audio"]["silent"] for footer in footers)
    return counts, facts
