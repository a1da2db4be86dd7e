"""`vtok tokens import|export`: token stores from and to other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UsageError
from vtok import console

_FORMAT_HELP = "hf (Parquet), mds (mosaicml-streaming), litdata, ds (datatrove), webdataset (npy) or hdf5 (TATS)."


def export_command(
    store: Annotated[Path, typer.Argument(help="A finished token store.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format_name: Annotated[str, typer.Option("--format", help=_FORMAT_HELP)],
    split: Annotated[list[str] | None, typer.Option(help="This split only; may be given again.")] = None,
) -> int:
    """Write a store in another tool's format; `import` reads it back without loss."""
    from vtok.tokens.exchange.exporting import export_store
    from vtok.tokens.store import TokenStore

    counts = export_store(TokenStore(store), out, format_name, split)
    listed = ", ".join(f"{name} {rows:,}" for name, rows in counts.items())
    console.say(f"exported to {format_name}: {listed} clips in {out}")
    console.say(f"next: vtok tokens import {out} STORE reads it back")
    return 0


def import_command(
    source: Annotated[Path, typer.Argument(help="A folder of codes (or an HDF5 file).")],
    store: Annotated[Path, typer.Argument(help="Folder of the new token store, e.g. runs/mine/tokens.")],
    format_name: Annotated[str | None, typer.Option("--format", help=f"{_FORMAT_HELP} Exports of vtok say it.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer that made the codes.")] = None,
    grid: Annotated[str | None, typer.Option(help="Latent grid t,h,w of a clip, where codes are flat.")] = None,
    column: Annotated[str, typer.Option(help="Column that holds the codes.")] = "codes",
    split: Annotated[str | None, typer.Option(help="Split of all clips, where no path names one.")] = None,
) -> int:
    """Make a token store of codes that another tool has written."""
    from vtok.tokens.exchange.importing import Origin, import_store
    from vtok.tokens.store import TokenStore

    origin = Origin(grid=_grid(grid), column=column, split=split)
    if tokenizer is not None:
        from vtok.tokenizers.load import load_tokenizer

        model = load_tokenizer(tokenizer)
        origin = origin._replace(tokenizer=model.fingerprint, codebook_size=model.codebook_size)
    card = import_store(source, store, format_name, origin)
    listed = ", ".join(f"{name} {rows:,}" for name, rows in TokenStore(store).splits().items())
    console.say(f"tokens: clips {card.counts['clips']:,} ({listed}), parts {card.counts['parts']} in {store}")
    console.say(f"next: vtok tokens check {store}")
    return 0


def _grid(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        t, h, w = (int(side) for side in text.split(","))
    except ValueError:
        raise UsageError(f"--grid {text}", hint="three numbers, for example 4,16,16") from None
    return t, h, w
