"""`vtok train`: the tokenizer, then the prior."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from vtok.cli.common import Overrides, RecipeArgument, conclude, read_recipe

app = typer.Typer(help="Train the tokenizer, then the prior.", no_args_is_help=True)

Resume = Annotated[
    str,
    typer.Option("--resume", help="`auto`: from the last checkpoint if there is one; `never`; or a checkpoint's path."),
]
Gpus = Annotated[
    int, typer.Option("--gpus", min=1, help="Training processes on this machine: one a GPU (on the CPU: gloo ranks).")
]


@app.command()
def tokenizer(recipe: RecipeArgument, overrides: Overrides = None, resume: Resume = "auto", gpus: Gpus = 1) -> int:
    """Train the video tokenizer (VQGAN or VQ-VAE) on the shards."""
    parsed = read_recipe(recipe, overrides)
    if _must_launch(gpus):
        return _launch(gpus, ["train", "tokenizer", recipe, *(overrides or []), "--resume", resume])
    from trainers.tokenizer import train_tokenizer

    return conclude(train_tokenizer(parsed, resume=resume), parsed.folder("tokenizer"), recipe)


@app.command()
def prior(recipe: RecipeArgument, overrides: Overrides = None, resume: Resume = "auto", gpus: Gpus = 1) -> int:
    """Train the GPT on the token store."""
    parsed = read_recipe(recipe, overrides)
    if _must_launch(gpus):
        return _launch(gpus, ["train", "prior", recipe, *(overrides or []), "--resume", resume])
    from trainers.prior import train_prior

    return conclude(train_prior(parsed, resume=resume), parsed.folder("prior"), recipe)


def _must_launch(gpus: int) -> bool:
    """Whether this process is to start the training processes, rather than being one of them."""
    return gpus > 1 and "WORLD_SIZE" not in os.environ


def _launch(gpus: int, arguments: list[str]) -> int:
    """Runs the same command in `gpus` processes through torchrun; they find each other on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.run([*command, "-m", "vtok", *arguments], env=environment, check=False).returncode
