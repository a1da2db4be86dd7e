"""`vtok data rejects`: what was left out, why, and trying it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UsageError
from vtok import console

app = typer.Typer(help="What was rejected, why, and what to do about it.", no_args_is_help=True)

Place = Annotated[Path, typer.Argument(help="A run's folder, or one of its stages (clips, shards, ...).")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command("ls")
def list_reasons(path: Place, as_json: AsJson = False) -> int:
    """Rejects by reason, with counts, examples and a remedy."""
    from vtok.rejects import find_rejects, summary

    groups = summary(find_rejects(path))
    if as_json:
        console.say(json.dumps(groups, indent=2, ensure_ascii=False))
        return 0
    if not groups:
        console.say(f"nothing was rejected in {path}")
        return 0
    for group in groups:
        rows, files = console.count(group["count"], "rejects"), console.count(group["files"], "files")
        console.say(f"{group['reason']}: {rows} of {files}: {group['meaning']}")
        for example in group["examples"]:
            console.say(f"  {console.name(example)}")
        console.say(f"  remedy: {group['remedy']}")
    console.say(f"next: vtok data rejects why {path} FILE")
    return 0


@app.command()
def why(
    path: Place,
    source: Annotated[str, typer.Argument(help="A file as `ls` names it: its path below the root.")],
    as_json: AsJson = False,
) -> int:
    """Every reject of one file, what it means and what to do."""
    from schemas.clips import REASONS
    from vtok.rejects import REMEDIES, find_rejects

    rejects = find_rejects(path)
    rows = [reject for reject in rejects if source in (reject["source"], console.name(reject["source"]))]
    if not rows:
        raise UsageError("nothing of this file was rejected", at=source, hint=_nearest(source, rejects, path))
    if as_json:
        said = [{**row, "meaning": REASONS[row["reason"]], "remedy": REMEDIES[row["reason"]]} for row in rows]
        console.say(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    console.say(f"{console.name(source)}: {console.count(len(rows), 'rejects')}")
    for row in rows:
        console.say(
            f"  {row['stage']} {row['part']}  {console.name(row['clip_id'] or 'whole file')}: {row['reason']}: "
            f"{row['detail']}"
        )
    for reason in dict.fromkeys(row["reason"] for row in rows):
        console.say(f"{reason}: {REASONS[reason]}\n  remedy: {REMEDIES[reason]}")
    return 0


def _nearest(source: str, rejects: list[dict[str, str]], path: Path) -> str:
    import difflib

    close = difflib.get_close_matches(source, {console.name(reject["source"]) for reject in rejects}, n=1)
    return f"did you mean {close[0]}?" if close else f"`vtok data rejects ls {path}` lists what was"


@app.command()
def retry(
    path: Annotated[Path, typer.Argument(help="The stage to try again: its folder (clips, shards, ...).")],
    reason: Annotated[
        list[str] | None, typer.Option(help="Only rejects with this reason; may be repeated. Default: all.")
    ] = None,
) -> int:
    """Take back the parts that have rejects, so that the stage's command makes just these again."""
    from schemas.card import PLAN_NAME
    from schemas.clips import REASONS
    from vtok.artefacts import MADE_BY, load_plan
    from vtok.locks import exclusive
    from vtok.rejects import reopen

    unknown = sorted(set(reason or []) - set(REASONS))
    if unknown:
        raise UsageError(f"no such reason: {', '.join(unknown)}", at="--reason", hint=f"reasons: {', '.join(REASONS)}")
    if not (path / PLAN_NAME).is_file():
        raise UsageError(
            "no artefact is here", at=str(path), hint="give the folder of a stage: RUN/clips, RUN/shards, ..."
        )
    plan = load_plan(path)
    with exclusive(path):
        names = reopen(path, reason)
    if not names:
        console.say(f"nothing to try again in {path}")
        return 0
    console.say(f"{console.count(len(names), 'parts')} of {path} will be made again: {', '.join(names[:5])}")
    console.say(f"next: {MADE_BY[plan.kind]} RECIPE")
    return 0
