"""Describes artefact folders for people: `vtok status` and `vtok data info` print what this module finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.card import CARD_NAME, PLAN_NAME
from schemas.config.run import STAGE_FOLDERS
from schemas.errors import UsageError, VtokError
from schemas.paths import as_path
from vtok import artefacts


def reasons(rejects: pa.Table) -> dict[str, int]:
    """How many rejects each reason has."""
    return {row["values"]: row["counts"] for row in rejects["reason"].value_counts().to_pylist()}


def describe(folder: Path) -> dict[str, Any]:
    """What a folder is, whether it is complete, what made it and what comes next.

    Returns:
        `path kind state made_by next` and, where they are known, `counts facts inputs fingerprint parts`.

    Raises:
        UsageError: no such folder, or nothing of vtok's in it.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise UsageError("no such folder", at=str(folder), hint="give a run's folder or one of its artefacts")
    if (folder / CARD_NAME).exists():
        card = artefacts.load(folder)
        return {
            "path": str(folder),
            "kind": card.kind,
            "state": "complete",
            "made_by": "vtok convert" if "converted" in card.facts else artefacts.MADE_BY.get(card.kind, ""),
            "next": artefacts.NEXT_COMMAND.get(card.kind, ""),
            "counts": card.counts,
            "facts": card.facts,
            "inputs": card.inputs,
            "fingerprint": card.fingerprint,
        }
    if (folder / PLAN_NAME).exists():
        plan = artefacts.load_plan(folder)
        have = sum((folder / unit).exists() for unit in plan.units)
        return {
            "path": str(folder),
            "kind": plan.kind,
            "state": f"unfinished: {have} of {len(plan.units)} parts" if plan.units else "unfinished",
            "made_by": artefacts.MADE_BY.get(plan.kind, ""),
            "next": artefacts.MADE_BY.get(plan.kind, ""),
            "inputs": plan.inputs,
        }
    raise UsageError(
        "nothing of vtok's is in this folder",
        at=str(folder),
        hint=f"a run's folder holds {', '.join(STAGE_FOLDERS.values())}; `vtok demo` makes one",
    )


def describe_run(folder: Path) -> list[dict[str, Any]]:
    """Descriptions of a run's stages in order; stages that are not there yet are left out."""
    found = []
    for name in STAGE_FOLDERS.values():
        stage = as_path(folder) / name
        if (stage / CARD_NAME).exists() or (stage / PLAN_NAME).exists():
            found.append(describe(stage))
    return found


def planned_items(folder: Path) -> int:
    """How many clips an artefact's card counts; 0 if that cannot be told."""
    try:
        return artefacts.load(folder).counts.get("clips", 0)
    except VtokError:
        return 0


def data_folders(path: Path) -> list[Path]:
    """The folders of clips and shards that a path means: itself, or those in a run.

    Raises:
        UsageError: it means none.
    """
    if not path.is_dir():
        raise UsageError("no such folder", at=str(path), hint="give a run's folder, or its clips or shards")
    if (path / CARD_NAME).exists() or (path / PLAN_NAME).exists():
        return [path]
    found = [path / STAGE_FOLDERS[kind] for kind in ("clips", "shards")]
    found = [folder for folder in found if (folder / CARD_NAME).exists() or (folder / PLAN_NAME).exists()]
    if not found:
        raise UsageError("no clips or shards here", at=str(path), hint="`vtok data ingest` makes clips")
    return found
