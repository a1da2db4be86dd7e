"""`vtok check`: every byte of an artefact or of a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import EXIT_DONE, EXIT_FAILED
from vtok import console

if TYPE_CHECKING:
    from vtok.check import Checked

_SHOWN = 20


def check(
    path: Annotated[Path, typer.Argument(help="A run's folder, or one artefact.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Compare every byte with what vouches for it: cards, indexes, parts, weights, checkpoints, samples, metrics."""
    from vtok import check as checking
    from vtok.inspect_folder import planned_items, tidy

    tidy(path)
    folders = checking.folders_of(path)
    found = []
    for folder in folders:
        with console.Progress(f"check {folder.name}", planned_items(folder), "clips") as bar:
            found.append(checking.check(folder, bar.advance))
    lineage = checking.lineage(folders)
    sound = not any(item.problems for item in found)
    if as_json:
        stages = [{**item._asdict(), "path": str(item.path), "sound": not item.problems} for item in found]
        for stage in stages:
            stage["problems"] = [problem._asdict() for problem in stage["problems"]]
        console.say(json.dumps({"sound": sound, "stages": stages, "lineage": lineage}, indent=2, ensure_ascii=False))
        return EXIT_DONE if sound else EXIT_FAILED
    for item in found:
        _show(item)
    for line in lineage:
        console.say(f"note: {line}")
    if not sound:
        return EXIT_FAILED
    console.say(f"next: vtok status {path}")
    return EXIT_DONE


def _show(item: Checked) -> None:
    name = item.kind or "unknown"
    if not item.problems:
        console.say(f"{name:10} sound: {item.summary}" if not item.summary.startswith("nothing") else f"{name:10} open")
    else:
        console.say(f"{name:10} DAMAGED: {console.count(len(item.problems), 'problems')} in {item.path}")
    for problem in item.problems[:_SHOWN]:
        console.say(f"{'':10} {problem.at}: {problem.what}")
        if problem.hint:
            console.say(f"{'':10}   hint: {problem.hint}")
    if len(item.problems) > _SHOWN:
        console.say(f"{'':10} and {len(item.problems) - _SHOWN} more (--json lists all)")
    for note in item.notes:
        console.say(f"{'':10} note: {note}")
