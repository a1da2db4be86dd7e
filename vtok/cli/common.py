"""What several commands share: the recipe argument, the summary of a stage, its exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import EXIT_DONE, EXIT_REJECTS
from vtok import console

if TYPE_CHECKING:
    from pipelines.runtime import Job
    from schemas.card import Card
    from schemas.config import Recipe

RecipeArgument = Annotated[str, typer.Argument(help="A recipe: a YAML file, or the name of one that comes with vtok.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key.path=value ...: change the recipe for this run.", show_default=False)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="A running Ray cluster; default: the one that runs this as a submitted job, or a Ray embedded here.",
    ),
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")]

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
"""Folder of the recipes that come with vtok."""


def read_recipe(name: str, overrides: list[str] | None) -> Recipe:
    """The recipe at a path, or a shipped one by its name."""
    from schemas.config import load_recipe

    path = Path(name)
    if not path.exists() and (SHIPPED / f"{name}.yaml").is_file():
        path = SHIPPED / f"{name}.yaml"
    recipe = load_recipe(path, overrides or [], shipped=SHIPPED)
    return with_address(recipe, recipe.cluster.address or submitted_to())


def submitted_to() -> str | None:
    """Address of the Ray cluster that runs this command as a submitted job (`ray job submit`); None: it is none.

    `RAY_ADDRESS` alone means nothing: it also names the place where jobs are submitted, which nobody can attach to.
    """
    return os.environ.get("RAY_ADDRESS") if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else None


def with_address(recipe: Recipe, address: str | None) -> Recipe:
    """The recipe on another Ray cluster, whose nodes do not know this directory: its local paths become absolute.

    Raises:
        UsageError: a relative path in a submitted job, whose directory is Ray's and goes away with it.
    """
    if address is None:
        return recipe
    places = {"out": recipe.out, "models": recipe.models, "data.root": recipe.data.root}
    whole = {key: _absolute(key, place) for key, place in places.items()}
    return recipe.model_copy(
        update={
            "out": whole["out"],
            "models": whole["models"],
            "data": recipe.data.model_copy(update={"root": whole["data.root"]}),
            "cluster": recipe.cluster.model_copy(update={"address": address}),
        }
    )


def _absolute(key: str, place: str | None) -> str | None:
    from schemas.errors import UsageError
    from schemas.paths import ObjectPath, as_path

    if place is None or isinstance(as_path(place), ObjectPath) or Path(place).is_absolute():
        return place
    if submitted_to() is not None:
        raise UsageError(
            f"{key} is relative, and the directory of a submitted job is Ray's own",
            at=place,
            hint=f"give an absolute path that every node sees: {key}=/...",
        )
    return str(Path.cwd() / place)


def show_plan(job: Job, recipe: Recipe, recipe_name: str) -> int:
    """Prints what a job would do."""
    from pipelines.dry_run import preview
    from vtok.artefacts import MADE_BY

    for line in preview(job, recipe.cluster):
        console.say(line)
    console.say(f"next: {MADE_BY[job.plan.kind]} {recipe_name}")
    return EXIT_DONE


def conclude(card: Card, folder: Path, recipe_name: str) -> int:
    """Prints what a stage made and what comes next; returns the exit code: 3 if anything was rejected."""
    from vtok.artefacts import NEXT_COMMAND, load_rejects
    from vtok.inspect_folder import reasons

    if os.environ.get("RANK", "0") != "0":
        return EXIT_DONE  # the first of several training processes speaks for all
    counts = ", ".join(f"{key} {value:,}" for key, value in card.counts.items() if key != "bytes")
    console.say(f"{card.kind}: {counts} ({console.size(card.counts.get('bytes', 0))}) in {folder}")
    code = EXIT_DONE
    if card.counts.get("rejects"):
        listed = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons(load_rejects(folder)).items()))
        console.say(f"rejected: {listed} (details: vtok data rejects ls {folder})")
        code = EXIT_REJECTS
    following = NEXT_COMMAND[card.kind]
    console.say(f"next: {following} {folder.parent if card.kind == 'samples' else recipe_name}")
    return code
