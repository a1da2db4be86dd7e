"""`vtok tokenize`: clips and a tokenizer become a token store."""

from __future__ import annotations

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


def tokenize(
    recipe: RecipeArgument, overrides: Overrides = None, ray_address: RayAddress = None, dry_run: DryRun = False
) -> int:
    """Encode every clip once into a Parquet token store; a store whose clips changed is brought up to date."""
    parsed = with_address(read_recipe(recipe, overrides), ray_address)
    from pipelines.runtime import run_job
    from pipelines.tokenize_clips import tokenize_job

    job = tokenize_job(parsed)
    if dry_run:
        return show_plan(job, parsed, recipe)
    return conclude(run_job(job, parsed.cluster), job.folder, recipe)
