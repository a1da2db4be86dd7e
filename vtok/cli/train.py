"""`vtok train`: the tokenizer, then the prior."""

from __future__ import annotations

from typing import Annotated

import typer

from vtok.cli.common import Overrides, RecipeArgument, conclude, read_recipe

app = typer.Typer(help="Train the tokenizer, then the prior.", no_args_is_help=True)

Resume = Annotated[
    str,
    typer.Option("--resume", help="`auto`: from the last checkpoint if there is one; `never`; or a checkpoint's path."),
]


@app.command()
def tokenizer(recipe: RecipeArgument, overrides: Overrides = None, resume: Resume = "auto") -> int:
    """Train the video VQGAN on the shards."""
    parsed = read_recipe(recipe, overrides)
    from trainers.tokenizer import train_tokenizer

    return conclude(train_tokenizer(parsed, resume=resume), parsed.folder("tokenizer"), recipe)


@app.command()
def prior(recipe: RecipeArgument, overrides: Overrides = None, resume: Resume = "auto") -> int:
    """Train the GPT on the token store."""
    parsed = read_recipe(recipe, overrides)
    from trainers.prior import train_prior

    return conclude(train_prior(parsed, resume=resume), parsed.folder("prior"), recipe)
