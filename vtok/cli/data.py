"""`vtok data`: from raw video to shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console
from vtok.cli import data_look, data_source
from vtok.cli import rejects as rejects_commands
from vtok.cli.common import (
    DryRun,
    Overrides,
    RayAddress,
    RecipeArgument,
    conclude,
    read_recipe,
    show_plan,
    with_address,
)

app = typer.Typer(help="From raw video to a clip manifest to WebDataset shards.", no_args_is_help=True)
app.command()(data_source.unpack)
app.command()(data_source.doctor)
app.add_typer(rejects_commands.app, name="rejects")


@app.command()
def ingest(
    recipe: RecipeArgument, overrides: Overrides = None, ray_address: RayAddress = None, dry_run: DryRun = False
) -> int:
    """Find the videos, read their headers, plan clips and splits."""
    parsed = with_address(read_recipe(recipe, overrides), ray_address)
    from pipelines.ingest import ingest_job
    from pipelines.runtime import run_job

    job = ingest_job(parsed)
    if dry_run:
        return show_plan(job, parsed, recipe)
    return conclude(run_job(job, parsed.cluster), job.folder, recipe)


@app.command()
def shard(
    recipe: RecipeArgument, overrides: Overrides = None, ray_address: RayAddress = None, dry_run: DryRun = False
) -> int:
    """Decode every clip once and pack it into WebDataset shards."""
    parsed = with_address(read_recipe(recipe, overrides), ray_address)
    from pipelines.runtime import run_job
    from pipelines.shard import shard_job

    job = shard_job(parsed)
    if dry_run:
        return show_plan(job, parsed, recipe)
    return conclude(run_job(job, parsed.cluster), job.folder, recipe)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A folder of clips, shards, tokens, ...")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """What an artefact holds, and why anything was rejected."""
    from schemas.card import INDEX_NAME, REJECTS_NAME
    from schemas.clips import REASONS
    from schemas.paths import as_path
    from vtok.artefacts import load_index, load_rejects
    from vtok.inspect_folder import describe

    path = as_path(path)
    found = describe(path)
    rejects = load_rejects(path).to_pylist() if (path / REJECTS_NAME).exists() else []
    if as_json:
        console.say(json.dumps({**found, "rejects": rejects}, indent=2))
        return 0
    console.say(f"{found['kind']} in {path}: {found['state']}")
    for key, value in found.get("counts", {}).items():
        console.say(f"  {key:18} {console.size(value) if key == 'bytes' else f'{value:,}'}")
    for key, value in found.get("facts", {}).items():
        console.say(f"  {key:18} {json.dumps(value, ensure_ascii=False)}")
    if found["state"] == "complete" and (path / INDEX_NAME).exists():
        console.say("parts")
        for row in load_index(path).to_pylist():
            console.say(
                f"  {row['path']:24} {row['rows']:8,} rows {console.size(row['bytes']):>10}  {row['sha256'][:12]}"
            )
    if rejects:
        console.say("rejects")
        for row in rejects:
            console.say(
                f"  {row['reason']:15} {console.name(row['clip_id'] or row['source'])}: {row['detail']} "
                f"({REASONS[row['reason']]})"
            )
    return 0


app.command("check")(data_look.check)
app.command("preview")(data_look.preview)
app.command("sql")(data_look.sql)
