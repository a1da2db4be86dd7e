"""`vtok tokens repair`: what is intact of a damaged token store stays, and the rest can be made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import EXIT_DONE, EXIT_FAILED
from vtok import console


def repair(
    path: Annotated[Path, typer.Argument(help="The store's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Rebuild index and card from intact parts, and move damaged parts aside.

    Exit code 0: the store is whole. 1: parts are lost; what made the store makes these, and only these, again.
    """
    from schemas.paths import as_path
    from vtok import artefacts
    from vtok.tokens.repair import ASIDE
    from vtok.tokens.repair import repair as mend

    folder = as_path(path)
    done = mend(folder)
    code = EXIT_DONE if done.complete else EXIT_FAILED
    if as_json:
        console.say(json.dumps(done._asdict(), indent=2))
        return code
    console.say(f"{folder}: {console.count(len(done.sound), 'parts')} sound")
    for name, why in done.damaged.items():
        console.say(f"  damaged: {name}: {why}; moved to {folder / ASIDE}")
    for name in done.missing:
        console.say(f"  missing: {name}")
    if done.rebuilt:
        console.say(f"  rebuilt: {', '.join(done.rebuilt)}")
    if done.complete:
        console.say("the store is whole" + ("" if done.rebuilt else ": nothing had to be done"))
        console.say(f"next: vtok tokens check {folder}")
        return code
    imported = "imported" in artefacts.load_plan(folder).config
    command, arguments = ("vtok tokens import", "SOURCE STORE") if imported else ("vtok tokenize", "RECIPE")
    lost = len(done.damaged) + len(done.missing)
    what = (
        f"makes {console.count(lost, 'parts')} and seals the store" if lost else "compares the parts with their clips"
    )
    console.say(f"the store is unfinished: running `{command}` again {what}")
    console.say(f"next: {command} {arguments}")
    return code
