"""Describes artefact folders for people: `vtok status` and `vtok data info` print what this module finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.card import CARD_NAME, PLAN_NAME, Card
from schemas.config.run import METRICS_FOLDER, STAGE_FOLDERS
from schemas.errors import UsageError, VtokError
from schemas.paths import as_path
from vtok import artefacts, console
from vtok.locks import sweep_if_idle
from vtok.sealed import size_problems


def reasons(rejects: pa.Table) -> dict[str, int]:
    """How many rejects each reason has."""
    return {row["values"]: row["counts"] for row in rejects["reason"].value_counts().to_pylist()}


def describe(folder: Path) -> dict[str, Any]:
    """What a folder is, whether it is complete, what made it and what comes next.

    Returns:
        `path kind state made_by next` and, where they are known, `counts facts inputs fingerprint`. The state of a
        finished artefact is `complete`, or `damaged: ...` where a file is missing or has another size; no byte of the
        parts is read.

    Raises:
        UsageError: no such folder, or nothing of vtok's in it.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise UsageError("no such folder", at=str(folder), hint="give a run's folder or one of its artefacts")
    if (folder / CARD_NAME).exists():
        card = artefacts.load(folder)
        problems = _missing(folder, card)
        return {
            "path": str(folder),
            "kind": card.kind,
            "state": f"damaged: {_few(problems)}" if problems else "complete",
            "made_by": "vtok convert" if "converted" in card.facts else artefacts.MADE_BY.get(card.kind, ""),
            "next": f"vtok check {folder}" if problems else artefacts.NEXT_COMMAND.get(card.kind, ""),
            "counts": card.counts,
            "facts": card.facts,
            "inputs": card.inputs,
            "fingerprint": card.fingerprint,
        }
    if (folder / PLAN_NAME).exists():
        artefacts.refuse_old_names(folder)
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
    stages = stage_folders(folder)
    return [describe(stage) for stage in stages if (stage / CARD_NAME).exists() or (stage / PLAN_NAME).exists()]


def stage_folders(run: Path) -> list[Path]:
    """Where a run's stages and metrics write, in their order, whether they have or not."""
    return [as_path(run) / name for name in (*STAGE_FOLDERS.values(), METRICS_FOLDER)]


def tidy(path: Path) -> None:
    """Removes temporary files that killed jobs have left in a run or an artefact, and says so."""
    folders = [as_path(path), *stage_folders(path)]
    count = sum(sweep_if_idle(item) for item in folders if (item / CARD_NAME).exists() or (item / PLAN_NAME).exists())
    if count:
        console.note(f"{console.count(count, 'temporary files')} of a job that did not end well removed")


def _missing(folder: Path, card: Card) -> list[str]:
    """Files of a finished artefact that are missing or have another size, a line each."""
    sizes = {name: seal.bytes for name, seal in card.files.items()}
    if card.kind in artefacts.PART_WISE:
        sizes |= {row["path"]: row["bytes"] for row in artefacts.load_index(folder).to_pylist()}
    return size_problems(folder, sizes)


def _few(problems: list[str]) -> str:
    return problems[0] + (f", and {len(problems) - 1} more" if problems[1:] else "")


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
