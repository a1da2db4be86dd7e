"""`vtok tokens stats|preview|sql`: what a store's codes are like, what they look like, and questions in SQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import EXIT_DONE, UsageError
from vtok import console

if TYPE_CHECKING:
    import pyarrow as pa

Store = Annotated[Path, typer.Argument(help="A token store, or a run that has one.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Tokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", help="The tokenizer's folder; default: the one beside the store.")
]
Shards = Annotated[Path | None, typer.Option("--shards", help="The shards' folder; default: the one beside the store.")]
Videos = Annotated[
    Path | None, typer.Option("--videos", help="The folder that was ingested: for clips whose shards are gone.")
]

_SHOWN_RUNS = 5


def stats(
    path: Store,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", help="FILE.html (plots) or FILE.parquet (everything); may be given twice."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Most frequent pairs and triples; 0: count none.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Codebook usage, entropy by position, repeats in time and frequent runs, by split and class."""
    from vtok.files import write_bytes, write_table
    from vtok.tokens.page import stats_page
    from vtok.tokens.store import TokenStore
    from vtok.tokens.survey import survey

    for each in out or []:
        if each.suffix not in (".html", ".parquet"):
            raise UsageError("statistics are .html or .parquet", at=str(each), hint="give --out such a file name")
    store = TokenStore(store_folder(path))
    facts = store.summary()
    with console.Progress("stats", facts["rows"], "rows") as bar:
        table = survey(store, top=top, advance=bar.advance)
    for each in out or []:
        if each.suffix == ".html":
            write_bytes(each, stats_page(facts, table).encode())
        else:
            write_table(each, table)
    if as_json:
        rows = table.drop_columns("usage").to_pylist()  # usage: a number for every code, in Parquet only
        console.say(json.dumps({"store": facts, "rows": rows}, indent=2, ensure_ascii=False))
        return EXIT_DONE
    _show(table)
    for each in out or []:
        console.say(f"written: {each} ({console.size(each.stat().st_size)})")
    if not out:
        console.say(f"next: vtok tokens stats {path} --out stats.html")
    return EXIT_DONE


def preview(
    path: Store,
    out: Annotated[Path, typer.Option("--out", help="FILE.png (contact sheet); a GIF is written beside it.")] = Path(
        "preview.png"
    ),
    num: Annotated[int, typer.Option("--num", min=1, max=64, help="Rows, spread over those that fit.")] = 8,
    clip: Annotated[list[str] | None, typer.Option("--clip", help="This clip; may be given several times.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only this split.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Only this class.")] = None,
    tokenizer: Tokenizer = None,
    shards: Shards = None,
    videos: Videos = None,
    as_json: AsJson = False,
) -> int:
    """Decode rows back to pictures, below the frames that were encoded, with the PSNR of each."""
    from vtok.tokens.origin import Origin
    from vtok.tokens.preview import choose, decode_rows, write_pictures
    from vtok.tokens.reencode import store_tokenizer
    from vtok.tokens.store import TokenStore

    store = TokenStore(store_folder(path))
    rows = choose(store, num, clips=clip, split=split, class_name=class_name)
    origin = Origin(store, shards=shards, videos=videos)
    decoded = decode_rows(store_tokenizer(store, tokenizer), origin, rows)
    written = write_pictures(out, decoded)
    if as_json:
        listed = [
            {key: each.row[key] for key in ("clip_id", "view_id", "split", "class_name")}
            | {"psnr_db": each.psnr_db, "problem": each.problem}
            for each in decoded
        ]
        console.say(json.dumps({"rows": listed, "files": [str(file) for file in written], "notes": origin.notes}))
        return EXIT_DONE
    for each in decoded:
        quality = f"{each.psnr_db:6.2f} dB" if each.psnr_db is not None else f"no PSNR: {each.problem}"
        view = "" if each.row["view_id"] == "whole" else f" ({each.row['view_id']})"
        console.say(f"  {quality}  {each.row['clip_id']}{view}")
    for note in origin.notes:
        console.note(f"note: {note}")
    for file in written:
        console.say(f"written: {file} ({console.size(file.stat().st_size)})")
    return EXIT_DONE


def sql(
    query: Annotated[str, typer.Argument(help="A SELECT over the views tokens, parts and rejects.")],
    path: Store,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows that are shown at most.")] = 100,
    as_json: AsJson = False,
) -> int:
    """Ask the store in SQL (DuckDB): `vtok tokens sql "select split, count(*) from tokens group by 1" runs/mine`."""
    from vtok.cli.data_look import check_order, show_answer
    from vtok.tokens.query import run_query

    check_order(query, path)
    return show_answer(run_query(query, store_folder(path), limit), limit, as_json=as_json)


def store_folder(path: Path) -> Path:
    """The token store that a path means: itself, or the one of a run."""
    from schemas.card import CARD_NAME, PLAN_NAME
    from schemas.config.run import STAGE_FOLDERS
    from schemas.paths import as_path

    path = as_path(path)
    inside = path / STAGE_FOLDERS["tokens"]
    own = (path / CARD_NAME).exists() or (path / PLAN_NAME).exists()
    return inside if not own and inside.is_dir() else path


def _show(table: pa.Table) -> None:
    from vtok.shards.query import text_table

    rows = table.drop_columns(["usage", "ngrams", "positions"]).to_pylist()
    columns = ["scope", "name", "rows", "codes", "used", "dead", "entropy_bits", "perplexity", "repeat_rate"]
    console.say(text_table(columns, [tuple(row[name] for name in columns) for row in rows]))
    first = table.slice(0, 1).to_pylist()[0]
    for each in first["positions"]:
        entropy = each["entropy_bits"]
        grid = f"{each['grid_t']} x {each['grid_h']} x {each['grid_w']}"
        mean = sum(entropy) / len(entropy)
        console.say(
            f"entropy by position, grid {grid} ({console.count(each['rows'], 'rows')}): "
            f"{min(entropy):.2f} to {max(entropy):.2f} bits, {mean:.2f} on average"
        )
    for along in ("raster", "time"):
        for order, word in ((2, "pairs"), (3, "triples")):
            runs = [run for run in first["ngrams"] if run["along"] == along and len(run["codes"]) == order]
            said = [f"{' '.join(map(str, run['codes']))} ({100 * run['share']:.2f}%)" for run in runs[:_SHOWN_RUNS]]
            if said:
                console.say(f"most frequent {word} in {along} order: {', '.join(said)}")
