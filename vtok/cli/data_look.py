"""`vtok data check|preview|sql`: verify, see and query clips and shards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from vtok import console

if TYPE_CHECKING:
    from vtok.shards.check import Findings
    from vtok.shards.query import Answer
    from vtok.video.faults import Doubt

DataPath = Annotated[Path, typer.Argument(help="A run's folder, or its clips or shards.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]

_SHOWN_COPIES = 20
_SHOWN_CLIPS = 20
_QUERY = re.compile(r"\s*(select|with|from|describe|summarize|show)\s", re.IGNORECASE)


def check(
    path: DataPath,
    fast: Annotated[bool, typer.Option("--fast", help="Hashes and counts only; no clip is decoded.")] = False,
    as_json: AsJson = False,
) -> int:
    """Verify clips and shards: every byte, every sample, every count; say what is damaged and how to mend it."""
    from vtok.artefacts import NEXT_COMMAND
    from vtok.inspect_folder import data_folders, planned_items, tidy
    from vtok.shards import check as checking

    tidy(path)
    found = []
    for folder in data_folders(path):
        with console.Progress(f"check {folder.name}", planned_items(folder), "clips") as bar:
            found.append(checking.check(folder, fast=fast, advance=bar.advance))
    damaged = any(item.problems or item.doubts for item in found)
    if as_json:
        console.say(json.dumps([_plain(item, fast) for item in found], indent=2, ensure_ascii=False))
        return EXIT_FAILED if damaged else EXIT_DONE
    for item in found:
        _show(item, fast)
    if damaged:
        return EXIT_FAILED
    console.say(f"next: {NEXT_COMMAND[found[-1].kind]}")
    return EXIT_DONE


def _plain(item: Findings, fast: bool) -> dict[str, Any]:
    return {
        **item._asdict(),
        "path": str(item.path),
        "sound": not item.problems and not item.doubts,
        "fast": fast,
        "problems": [problem._asdict() for problem in item.problems],
        "doubts": [doubt._asdict() for doubt in item.doubts],
        "duplicates": [group._asdict() for group in item.duplicates],
    }


def show_doubts(doubts: list[Doubt], command: str) -> None:
    """Names clips that an older revision may have spoilt; `command` made them."""
    for doubt in doubts:
        names = ", ".join(map(console.name, doubt.clips[:_SHOWN_CLIPS]))
        more = f" and {len(doubt.clips) - _SHOWN_CLIPS} more" if len(doubt.clips) > _SHOWN_CLIPS else ""
        console.say(f"  made by an older vtok: of {console.count(len(doubt.clips), 'clips')}, {doubt.what}")
        console.say(f"    {names}{more}")
    if doubts:
        console.say(f"    hint: look at them (preview); `{command}` into another `out` makes them anew")


def _show(item: Findings, fast: bool) -> None:
    from vtok.artefacts import MADE_BY

    holds = f"{console.count(item.clips, 'clips')} in {console.count(item.parts, 'parts')}"
    state = "damaged" if item.problems else "doubtful" if item.doubts else "sound"
    how = "hashes compared, nothing decoded" if fast else "every byte and every clip"
    console.say(f"{item.kind} in {item.path}: {state}: {holds}, {console.count(item.rejects, 'rejects')} ({how})")
    for problem in item.problems:
        console.say(f"  {problem.at}: {problem.what}\n    hint: {problem.hint}")
    show_doubts(item.doubts, MADE_BY[item.kind] if item.doubts else "")
    for note in item.notes:
        console.say(f"  note: {note}")
    for group in item.duplicates[:_SHOWN_COPIES]:
        leak = f"LEAK across {', '.join(group.splits)}" if len(group.splits) > 1 else f"in {group.splits[0]}"
        console.say(f"  equal files {leak}: {', '.join(map(console.name, group.sources))}")
    if len(item.duplicates) > _SHOWN_COPIES:
        console.say(f"  and {len(item.duplicates) - _SHOWN_COPIES} more groups of equal files (--json lists all)")


def preview(
    path: DataPath,
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.html or FILE.png; default: preview.html beside the shards.")
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=1, max=1000, help="How many, spread over the split.")] = 24,
    split: Annotated[str | None, typer.Option("--split", help="Which split; default: train, or the first.")] = None,
) -> int:
    """Draw a contact sheet of clips as filmstrips, with id, class and caption."""
    from vtok.shards.preview import write_preview

    written, shown = write_preview(path, out, clips, split)
    console.say(f"{console.count(shown, 'clips')} in {written} ({console.size(written.stat().st_size)})")
    return EXIT_DONE


def sql(
    query: Annotated[str, typer.Argument(help="A SELECT over the views clips, rejects and parts.")],
    path: DataPath,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows that are shown at most.")] = 100,
    as_json: AsJson = False,
) -> int:
    """Ask the manifest in SQL (DuckDB): `vtok data sql "select split, count(*) from clips group by 1" runs/mine`."""
    from vtok.shards.query import run_query

    check_order(query, path)
    return show_answer(run_query(query, path, limit), limit, as_json=as_json)


def check_order(query: str, path: Path) -> None:
    """Tells whoever gave the folder first, as every other command wants it.

    Raises:
        UsageError: the path is a query, and the query none.
    """
    if _QUERY.match(str(path)) and not _QUERY.match(query):
        raise UsageError("the query comes first, then the folder", at=str(path), hint=f'sql "{path}" {query}')


def show_answer(answer: Answer, limit: int, *, as_json: bool) -> int:
    """Prints the rows of a query."""
    from vtok.shards.query import text_table

    if as_json:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        console.say(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
    else:
        console.say(text_table(answer.columns, answer.rows))
    if answer.more:
        console.note(f"only the first {console.count(limit, 'rows')} are shown; raise --limit for more")
    return EXIT_DONE
