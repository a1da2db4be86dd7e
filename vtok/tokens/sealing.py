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


def contents_fingerprint(contents: Mapping[str, str]) -> str:
    """sha256 over what every part is made from.

    Args:
        contents: name of each part, and the fingerprint of everything that decides its bytes.
    """
    return fingerprint(dict(contents))


def view_of(plan: Plan, part: str) -> dict[str, Any]:
    """The plan's entry for the view that a part holds, by the part's name."""
    name = part.removesuffix(".parquet").partition(".")[2] or "whole"
    return next(dict(view) for view in plan.config["views"] if view["name"] == name)


def store_facts(folder: Path, plan: Plan, parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
    """Counts and facts of a card.

    Args:
        folder: the store; its parts' footers are read where sounds were encoded.
        plan: of `vtok tokenize`.
        parts: all of them.
    """
    config = plan.config
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
