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
    from vtok.shards.redecode import Redecoded
    from vtok.video.faults import Doubt

DataPath = Annotated[Path, typer.Argument(help="A run's folder, or its clips or shards.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]

_SHOWN_COPIES = 20
_SHOWN_CLIPS = 20
_QUERY = re.compile(r"\s*(select|with|from|describe|summarize|show)\s", re.IGNORECASE)


def check(
    path: DataPath,
    fast: Annotated[bool, typer.Option("--fast", help="Hashes and counts only; no clip is decoded.")] = False,
    again: Annotated[
        str | None,
        typer.Option("--redecode", help="Decode this share of the shards' clips again and compare, e.g. 1% or 0.01."),
    ] = None,
    videos: Annotated[
        Path | None, typer.Option("--videos", help="The folder that was ingested; for --redecode.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which clips --redecode takes.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Verify clips and shards: every byte, every sample, every count; say what is damaged and how to mend it."""
    from vtok.artefacts import NEXT_COMMAND
    from vtok.inspect_folder import data_folders, planned_items, tidy
    from vtok.shards import check as checking

    share = read_share(again, "--redecode") if again is not None else None
    if share is not None and videos is None:
        hint = "artefacts hold no paths: give data.root of the recipe"
        raise UsageError("--redecode needs --videos, the folder that was ingested", at="--redecode", hint=hint)
    tidy(path)
    found = []
    for folder in data_folders(path):
        with console.Progress(f"check {folder.name}", planned_items(folder), "clips") as bar:
            found.append(checking.check(folder, fast=fast, advance=bar.advance))
    damaged = any(item.problems or item.doubts for item in found)
    compared = None
    shards = [item for item in found if item.kind == "shards" and not item.problems]
    if share is not None and videos is not None and shards:
        compared = _redecode(shards[0].path, videos, share, seed)
    differs = compared is not None and bool(compared.differing or not compared.equal)
    if as_json:
        plain = [_plain(item, fast) for item in found]
        if compared is not None:
            next(each for each in plain if each["kind"] == "shards")["redecode"] = {
                **compared._asdict(),
                "differing": [each._asdict() for each in compared.differing],
            }
        console.say(json.dumps(plain, indent=2, ensure_ascii=False))
        return EXIT_FAILED if damaged or differs else EXIT_DONE
    for item in found:
        _show(item, fast)
    if compared is not None:
        _show_redecoded(compared)
    elif share is not None:
        console.say("nothing was decoded again: there are no sound shards")
    if damaged or differs:
        return EXIT_FAILED
    console.say(f"next: {NEXT_COMMAND[found[-1].kind]}")
    return EXIT_DONE


def read_share(text: str, option: str) -> float:
    """`1%` or `0.01`, over 0 and up to 1.

    Raises:
        UsageError: it is neither.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UsageError(f"{text!r} is no share", at=option, hint="give a percentage over 0%, e.g. 1%, or 100%")
    return value


def _redecode(folder: Path, videos: Path, share: float, seed: int) -> Redecoded:
    from pipelines.decode_clips import ClipDecoder
    from schemas.config.data import DataConfig, ShardsConfig
    from vtok import artefacts
    from vtok.shards.redecode import redecode
    from vtok.stopwatch import Stopwatch

    card = artefacts.load(folder, "shards")
    shape = {name: card.config[name] for name in ("resolution", "pixel_aspect", "num_frames") if name in card.config}
    data = DataConfig.model_validate({"root": str(videos), **shape})
    decoder = ClipDecoder(data, ShardsConfig.model_validate(card.config["shards"]), Stopwatch())
    try:
        with console.Progress("redecode", max(1, round(share * card.counts["clips"])), "clips") as bar:
            return redecode(folder, decoder.clips, share, seed=seed, advance=bar.advance)
    finally:
        decoder.child.close()


def _show_redecoded(compared: Redecoded) -> None:
    done = compared.equal + len(compared.differing)
    console.say(
        f"decoded again: {done:,} of {console.count(compared.clips, 'clips')} in the sample; {compared.equal:,} with "
        f"the same bytes, {len(compared.differing):,} with others"
    )
    for each in compared.differing[:_SHOWN_CLIPS]:
        how = f"{each.pixels:.1%} of the values differ, by up to {each.largest}"
        console.say(
            f"  {each.part}: {console.name(each.clip_id)}: {how if each.largest else 'other bytes, equal pixels'}"
        )
    if len(compared.differing) > _SHOWN_CLIPS:
        console.say(f"  and {len(compared.differing) - _SHOWN_CLIPS} more (--json lists all)")
    for reason, number in compared.skipped.items():
        console.say(f"  {console.count(number, 'clips')} could not be compared: {reason}")
    for note in compared.notes:
        console.say(f"  note: {note}")
    if compared.differing and not compared.notes:
        console.say("  note: the versions are the same; processors of another kind decode otherwise")


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
