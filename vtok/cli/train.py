"""`vtok train`: the tokenizer, then the prior."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from schemas.errors import EXIT_DONE, UsageError
from vtok import console
from vtok.cli.common import Overrides, RecipeArgument, conclude, read_recipe

app = typer.Typer(help="Train the tokenizer, then the prior.", no_args_is_help=True)

Resume = Annotated[
    str,
    typer.Option("--resume", help="`auto`: from the last checkpoint if there is one; `never`; or a checkpoint's path."),
]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", min=1, help="Training processes on this machine: one a GPU (on the CPU: gloo ranks)."),
]
Hostfile = Annotated[
    Path | None,
    typer.Option("--hostfile", help="Train on several machines: lines such as `node1 slots=8` (needs pdsh and ssh)."),
]
Calibrate = Annotated[
    bool,
    typer.Option("--calibrate", help="Time 20 steps of each alternative, say which is fastest, and write nothing."),
]


@app.command()
def tokenizer(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Resume = "auto",
    gpus: Gpus = None,
    hostfile: Hostfile = None,
    calibrate: Calibrate = False,
) -> int:
    """Train the video tokenizer (VQGAN or VQ-VAE) on the shards."""
    return _train("tokenizer", recipe, overrides, resume, gpus, hostfile, calibrate)


@app.command()
def prior(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Resume = "auto",
    gpus: Gpus = None,
    hostfile: Hostfile = None,
    calibrate: Calibrate = False,
) -> int:
    """Train the prior on the token store."""
    return _train("prior", recipe, overrides, resume, gpus, hostfile, calibrate)


def _train(
    kind: Literal["tokenizer", "prior"],
    recipe: str,
    overrides: list[str] | None,
    resume: str,
    gpus: int | None,
    hostfile: Path | None,
    calibrate: bool,
) -> int:
    from vtok.cli import launching

    parsed = read_recipe(recipe, overrides)
    if gpus is not None and hostfile is not None:
        raise UsageError(
            "--gpus and --hostfile exclude each other", hint="the hostfile says how many GPUs each host has"
        )
    if calibrate:
        from trainers.calibrate import calibrate as measure

        if hostfile is not None or (gpus or 1) > 1:
            raise UsageError("--calibrate measures one process", hint="leave --gpus and --hostfile out")
        for line in measure(kind, parsed):
            console.say(line)
        return EXIT_DONE
    arguments = ["train", kind, recipe, *(overrides or []), "--resume", resume]
    if not launching.launched() and hostfile is not None:
        return launching.launch_on_hosts(arguments, hostfile)
    if not launching.launched() and (gpus or 1) > 1:
        _check_gpus(gpus or 1)
        return launching.launch([sys.executable, "-m", "vtok", *arguments], gpus or 1)
    if kind == "tokenizer":
        from trainers.tokenizer import train_tokenizer as train
    else:
        from trainers.prior import train_prior as train
    return conclude(train(parsed, resume=resume), parsed.folder(kind), recipe)


def _check_gpus(gpus: int) -> None:
    """Refuses more processes than there are GPUs, where there are any.

    Raises:
        UsageError: too many.
    """
    import torch

    there = torch.cuda.device_count()
    if 0 < there < gpus:
        raise UsageError(f"{gpus} training processes and {there} GPUs", at="--gpus", hint=f"set --gpus {there}")
