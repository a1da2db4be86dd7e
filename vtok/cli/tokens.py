"""`vtok tokens`: look into a token store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console
from vtok.cli.tokens_exchange import export_command, import_command

app = typer.Typer(help="Look into a token store.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="The store's folder.")]


@app.command()
def info(path: Store, as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> int:
    """Which tokenizer made it, how many clips and tokens, and how the codebook is used."""
    from vtok.tokens.store import TokenStore

    store = TokenStore(path)
    facts = store.summary()
    if as_json:
        console.say(json.dumps(facts, indent=2))
        return 0
    for key, value in facts.items():
        console.say(f"{key:18} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return 0


@app.command()
def check(path: Store) -> int:
    """Verify every byte of the store against its index and checksums."""
    from vtok.tokens.store import TokenStore

    store = TokenStore(path)
    rows = store.check()
    console.say(f"sound: {console.count(rows, 'clips')} in {console.count(len(store.parts), 'parts')}")
    return 0


app.command("export")(export_command)
app.command("import")(import_command)
