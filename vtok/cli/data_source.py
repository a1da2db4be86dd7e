"""`vtok data unpack|doctor`: a named dataset from its archives to a tree, and whether that tree is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console
from vtok.cli.common import Overrides

Name = Annotated[str, typer.Argument(help="ucf101, bair, kinetics400, ...; a name that vtok does not know lists all.")]
Root = Annotated[Path, typer.Argument(help="Folder of the dataset.")]


def unpack(name: Name, root: Root) -> int:
    """Unpack a dataset's archives as they were downloaded."""
    from vtok.datasets.catalogue import find_dataset
    from vtok.datasets.unpack import unpack as run

    for done in run(find_dataset(name), root):
        what = "unpacked before" if done.skipped else "unpacked"
        console.say(f"{done.archive}: {console.count(done.files, 'files')} {what}")
    console.say(f"next: vtok data doctor {name} {root}")
    return 0


def doctor(
    name: Name,
    root: Root,
    overrides: Overrides = None,
    names_only: Annotated[bool, typer.Option("--names-only", help="Do not open the videos.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Is a dataset's tree complete and sound? Exit code 1 if anything fails.

    Overrides are those of the recipe's section `data`, for example num_frames=16 split_list=2.
    """
    from schemas.config.data import DataConfig
    from schemas.config.run import read_section
    from vtok.datasets.catalogue import find_dataset
    from vtok.datasets.soundness import FAIL, examine

    dataset = find_dataset(name)
    config = read_section(DataConfig, {"root": str(root), "layout": dataset.layout}, overrides or [])
    findings = examine(dataset, config, probe=not names_only)
    failed = any(finding.level == FAIL for finding in findings)
    if as_json:
        console.say(json.dumps([finding._asdict() for finding in findings], indent=2))
        return int(failed)
    for finding in findings:
        console.say(f"{finding.level:4} {finding.name:14} {finding.detail}")
        for example in finding.examples:
            console.say(f"     {'':14}   {console.name(example)}")
        if finding.hint and finding.level != "OK":
            console.say(f"     {'':14} hint: {finding.hint}")
    console.say(f"next: vtok data ingest RECIPE, with data.layout: {dataset.layout} and data.root: {root}")
    return int(failed)
