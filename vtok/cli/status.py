"""`vtok status`: what is this, is it complete, what made it, what comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console


def status(
    path: Annotated[Path, typer.Argument(help="A run's folder, or one artefact.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """What is this, is it complete, what made it, what comes next."""
    from vtok.inspect_folder import describe, describe_run, tidy

    tidy(path)
    found = describe_run(path) or [describe(path)]
    if as_json:
        console.say(json.dumps(found, indent=2))
        return 0
    for item in found:
        counts = ", ".join(f"{key} {value:,}" for key, value in item.get("counts", {}).items() if key != "bytes")
        console.say(f"{item['kind']:10} {item['state']:32} {counts}")
        console.say(f"{'':10} made by `{item['made_by']}` in {item['path']}")
    console.say(f"next: {found[-1]['next']}")
    return 0
