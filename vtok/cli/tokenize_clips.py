"""`vtok tokenize`: shards and a tokenizer become a token store."""

from __future__ import annotations

from vtok.cli.common import Overrides, RayAddress, RecipeArgument, conclude, read_recipe, with_address


def tokenize(recipe: RecipeArgument, overrides: Overrides = None, ray_address: RayAddress = None) -> int:
    """Encode the shards once into a Parquet token store."""
    parsed = with_address(read_recipe(recipe, overrides), ray_address)
    from pipelines.tokenize_clips import tokenize as job

    return conclude(job(parsed), parsed.folder("tokens"), recipe)
