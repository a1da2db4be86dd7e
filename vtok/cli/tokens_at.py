"""`vtok tokens at`: which clips fed a training step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vtok import console

PathArgument = Annotated[Path, typer.Argument(help="A run with a prior in it, or a token store.")]
_FROM_RUN = "default: what the run's prior was trained with, else"


def at(
    path: PathArgument,
    step: Annotated[int, typer.Option("--step", min=0, help="Which step, from 0.")],
    rank: Annotated[
        int | None, typer.Option("--rank", min=0, help="One rank's share; default: the whole batch.")
    ] = None,
    world: Annotated[int, typer.Option("--world", min=1, help="How many ranks there were.")] = 1,
    split: Annotated[str, typer.Option("--split", help="Which split was trained on.")] = "train",
    seed: Annotated[int | None, typer.Option("--seed", help=f"Of the order ({_FROM_RUN} 0).")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help=f"Over all ranks ({_FROM_RUN} it must be given).")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", help=f"Rows of this view only; may be given several times ({_FROM_RUN} all rows)."),
    ] = None,
    order: Annotated[
        Literal["rows", "parts"] | None, typer.Option("--order", help=f"What was shuffled ({_FROM_RUN} rows).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Which clips fed a training step: the order is known at any step, forwards and backwards.

    The order is that of `vtok train prior`: one store, what fills no whole batch left out. For a mix of stores or
    padded batches, ask vtok.tokens.loader.clips_at.
    """
    from schemas.card import CARD_NAME
    from schemas.errors import UsageError
    from vtok.tokens.loader import Crop, TokenBatches, clips_at
    from vtok.tokens.store import TokenStore

    store = TokenStore(path / "tokens" if (path / "tokens" / CARD_NAME).exists() else path)
    trained = _trained_with(store.folder.parent / "prior")
    seed = trained.get("seed", 0) if seed is None else seed
    batch_size = batch_size or trained.get("batch_size")
    if batch_size is None:
        raise UsageError("no prior beside this store says how large a batch is", at=str(path), hint="give --batch-size")
    if rank is not None and rank >= world:
        raise UsageError(f"there is no rank {rank} of {world}", hint="ranks count from 0; --world says how many")
    any_grid = Crop(1, 1, 1)  # which rows come does not depend on what is cut out of them
    batches = TokenBatches(
        store,
        split,
        batch_size,
        seed=seed,
        world=world,
        order=order or trained.get("order", "rows"),
        crop=any_grid,
        views=view or trained.get("views"),
        cache_bytes=sys.maxsize,  # of any store; nothing that a training needs gives way to these few parts
    )
    found = clips_at(batches, step, rank)
    epoch, number = divmod(step, batches.per_epoch)
    if as_json:
        console.say(json.dumps({"step": step, "epoch": epoch, "batch": number, "clips": found}, indent=2))
        return 0
    console.say(f"step {step}: batch {number} of {batches.per_epoch} of epoch {epoch}")
    for clip in found:
        console.say(f"{clip['clip_id']}  {clip['view_id']}  row {clip['row']}")
    return 0


def _trained_with(folder: Path) -> dict[str, Any]:
    """What the order of the batches of a prior depends on, finished or not."""
    from schemas.card import PLAN_NAME
    from vtok import artefacts

    if not (folder / PLAN_NAME).exists():
        return {}
    config = artefacts.load_plan(folder).config
    train = {name: value for name, value in config.get("train", {}).items() if value is not None}
    return {"seed": config.get("seed", 0), **train}
