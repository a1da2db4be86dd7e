"""`vtok tokens`: look into a token store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console
from vtok.cli import tokens_at, tokens_check, tokens_exchange, tokens_look, tokens_repair

app = typer.Typer(help="Look into a token store.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="A token store, or a run that has one.")]


@app.command()
def info(path: Store, as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> int:
    """Which tokenizer made it, how many rows, clips and tokens, and how the codebook is used."""
    from vtok.tokens.store import TokenStore

    store = TokenStore(tokens_look.store_folder(path))
    facts = store.summary()
    if as_json:
        console.say(json.dumps(facts, indent=2))
        return 0
    for key, value in facts.items():
        console.say(f"{key:18} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return 0


app.command("stats")(tokens_look.stats)
app.command("check")(tokens_check.check)
app.command("diff")(tokens_check.diff)
app.command("preview")(tokens_look.preview)
app.command("sql")(tokens_look.sql)
app.command("at")(tokens_at.at)
app.command("repair")(tokens_repair.repair)
app.command("export")(tokens_exchange.export_command)
app.command("import")(tokens_exchange.import_command)
