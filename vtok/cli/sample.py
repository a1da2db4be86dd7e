"""`vtok sample`: draw clips from the prior."""

from __future__ import annotations

from vtok.cli.common import Overrides, RecipeArgument, conclude, read_recipe


def sample(recipe: RecipeArgument, overrides: Overrides = None) -> int:
    """Draw clips from the prior; writes mp4 files, a GIF grid and an index."""
    parsed = read_recipe(recipe, overrides)
    from pipelines.generate import generate

    return conclude(generate(parsed), parsed.folder("samples"), recipe)
