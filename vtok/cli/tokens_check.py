"""`vtok tokens check|diff`: all that is damaged in a store, and all in which two stores differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import EXIT_DONE, EXIT_FAILED
from vtok import console
from vtok.cli.data_look import read_share, show_doubts
from vtok.cli.tokens_look import AsJson, Shards, Store, Tokenizer, Videos, store_folder

if TYPE_CHECKING:
    from vtok.tokens.diff import Difference, Group
    from vtok.tokens.findings import Findings
    from vtok.tokens.reencode import Reencoded

_SHOWN = 20
_MOST_ROWS = 1_000_000


def check(
    path: Store,
    again: Annotated[
        str | None,
        typer.Option("--reencode", help="Encode this share of the rows again and compare, e.g. 1% or 0.01."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which rows --reencode takes.")] = 0,
    tokenizer: Tokenizer = None,
    audio_tokenizer: Annotated[
        str | None,
        typer.Option("--audio-tokenizer", help="Folder of the tokenizer of sound: --reencode compares its codes too."),
    ] = None,
    shards: Shards = None,
    videos: Videos = None,
    as_json: AsJson = False,
) -> int:
    """Verify every byte and every row offline; say all that is damaged and how to mend it."""
    from vtok.inspect_folder import planned_items, tidy
    from vtok.tokens.check import check_store

    tidy(path)
    folder, share = store_folder(path), read_share(again, "--reencode") if again is not None else None
    with console.Progress("check", planned_items(folder), "rows") as bar:
        found = check_store(folder, advance=bar.advance)
    compared = None
    if share is not None and not found.damages:
        from vtok.tokens.origin import Origin
        from vtok.tokens.reencode import device_of, reencode, store_audio_tokenizer, store_tokenizer
        from vtok.tokens.store import TokenStore

        store = TokenStore(folder)
        origin, device = Origin(store, shards=shards, videos=videos), device_of(store)
        made_by = store_tokenizer(store, tokenizer, device)
        audio = store_audio_tokenizer(store, audio_tokenizer, device) if audio_tokenizer is not None else None
        with console.Progress("reencode", round(share * found.rows), "rows") as bar:
            compared = reencode(
                store, origin, made_by, share, audio=audio, seed=seed, device=device, advance=bar.advance
            )
    if as_json:
        shown = _plain(found) if compared is None else {**_plain(found), "reencode": _plain_reencode(compared)}
        console.say(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        _show(found)
        if compared is not None:
            _show_reencode(compared)
        elif share is not None:
            console.say("nothing was encoded again: mend the store first")
        if not found.damages:
            console.say(f"next: vtok tokens stats {found.path}")
    good = (
        not found.damages
        and not found.doubts
        and (compared is None or (not compared.mismatches and compared.equal > 0))
    )
    nothing = compared is not None and not compared.rows and not found.doubts
    return EXIT_DONE if good or nothing else EXIT_FAILED


def _plain_reencode(compared: Reencoded) -> dict[str, Any]:
    return {**compared._asdict(), "mismatches": [each._asdict() for each in compared.mismatches]}


def _show_reencode(compared: Reencoded) -> None:
    done = compared.equal + len(compared.mismatches)
    console.say(
        f"encoded again: {done:,} of {console.count(compared.rows, 'rows')} in the sample; {compared.equal:,} with the "
        f"same codes, {len(compared.mismatches):,} with others ({compared.changed_codes:,} of {compared.codes:,} codes"
        + (f", {compared.changed_audio_codes:,} of {compared.audio_codes:,} of sound)" if compared.audio_codes else ")")
    )
    for each in compared.mismatches[:_SHOWN]:
        view = "" if each.view_id == "whole" else f" ({each.view_id})"
        sound = f", {each.changed_audio_codes} of sound" if each.changed_audio_codes else ""
        console.say(f"  {each.part}: {each.clip_id}{view}: {each.changed_codes} of {each.codes} codes{sound} differ")
    if len(compared.mismatches) > _SHOWN:
        console.say(f"  and {len(compared.mismatches) - _SHOWN} more (--json lists all)")
    for reason, number in compared.skipped.items():
        console.say(f"  {console.count(number, 'rows')} could not be compared: {reason}")
    for note in compared.notes:
        console.say(f"  note: {note}")


def _plain(found: Findings) -> dict[str, Any]:
    damages = [damage._asdict() for damage in found.damages]
    doubts = [doubt._asdict() for doubt in found.doubts]
    sound = not damages and not doubts
    return {**found._asdict(), "path": str(found.path), "sound": sound, "damages": damages, "doubts": doubts}


def _show(found: Findings) -> None:
    if not found.damages:
        state = "doubtful" if found.doubts else "sound"
        console.say(
            f"{state}: {console.count(found.rows, 'rows')} in {console.count(found.parts, 'parts')}, "
            f"{console.count(found.row_groups, 'row groups')} (every byte and every row)"
        )
    else:
        console.say(
            f"damaged: {found.damaged_parts} of {console.count(found.parts, 'parts')}, {found.damaged_row_groups} of "
            f"{console.count(found.row_groups, 'row groups')}; {found.read_rows:,} of "
            f"{console.count(found.rows, 'rows')} can still be read and look right"
        )
    place = hint = ""
    for damage in found.damages:
        if damage.at != place:
            console.say(f"  {damage.at}")
        group = "" if damage.row_group is None else f"row group {damage.row_group}: "
        rows = f" ({console.count(damage.rows, 'rows')})" if damage.rows else ""
        console.say(f"    {group}{damage.what}{rows}")
        if (damage.at, damage.hint) != (place, hint):
            console.say(f"    hint: {damage.hint}")
        place, hint = damage.at, damage.hint
    show_doubts(found.doubts, "vtok tokenize")
    for note in found.notes:
        console.say(f"  note: {note}")


def diff(
    a: Annotated[Path, typer.Argument(help="A token store, or a run that has one.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[Path | None, typer.Option("--out", help="FILE.parquet for all rows that differ.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows that are named.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Compare two stores clip by clip: equal, changed, only in one; exit code 1 where they differ."""
    from vtok.files import write_table
    from vtok.tokens.diff import diff_stores
    from vtok.tokens.store import TokenStore

    stores = [TokenStore(store_folder(path)) for path in (a, b)]
    rows = sum(sum(store.splits().values()) for store in stores)
    with console.Progress("diff", rows, "rows") as bar:
        found = diff_stores(stores[0], stores[1], most=_MOST_ROWS if out else limit, advance=bar.advance)
    if out is not None:
        write_table(out, found.rows)
    if as_json:
        console.say(json.dumps(_plain_difference(found, limit), indent=2, ensure_ascii=False))
    else:
        _show_difference(found, limit)
    return EXIT_DONE if found.same else EXIT_FAILED


def _plain_difference(found: Difference, limit: int) -> dict[str, Any]:
    return {
        "same": found.same,
        "reasons": found.reasons,
        "facts": found.facts,
        "total": found.total._asdict(),
        "splits": {name: group._asdict() for name, group in found.splits.items()},
        "classes": [{"class_name": name, **group._asdict()} for name, group in found.classes.items()],
        "rows": found.rows.slice(0, limit).to_pylist(),
        "more": found.more + max(0, found.rows.num_rows - limit),
    }


def _show_difference(found: Difference, limit: int) -> None:
    from vtok.shards.query import text_table

    for reason in found.reasons:
        console.say(f"note: {reason}")
    if found.total.same and not found.makers:
        console.say(f"equal codes of different tokenizers: {console.count(found.total.equal, 'rows')}")
        return
    if found.same:
        console.say(f"the same: {console.count(found.total.equal, 'rows')}, {found.total.codes:,} codes")
        return
    columns = ["", "equal", "changed", "codes changed", "other grid", "only in A", "only in B", "other facts"]
    lines = [("all", found.total), *found.splits.items()]
    lines += [(f"class {name}", group) for name, group in found.classes.items()]
    console.say(text_table(columns, [_cells(name, group) for name, group in lines]))
    for name, number in found.facts.items():
        console.say(f"  {name} differs in {console.count(number, 'rows')}")
    for row in found.rows.slice(0, limit).to_pylist():
        facts = f"; differs in {', '.join(row['changed_facts'])}" if row["changed_facts"] else ""
        what = {
            "changed": f"{row['changed_codes']} of {row['codes']} codes changed",
            "other_grid": "another grid",
            "only_a": "only in A",
            "only_b": "only in B",
            "equal": "same codes",
        }[row["state"]]
        view = "" if row["view_id"] == "whole" else f" ({row['view_id']})"
        console.say(f"  {row['clip_id']}{view}: {what}{facts}")
    more = found.more + max(0, found.rows.num_rows - limit)
    if more:
        console.say(f"  and {more:,} more (--limit, or --out FILE.parquet)")


def _cells(name: str, group: Group) -> tuple[Any, ...]:
    share = f"{100 * group.changed_codes / group.codes:.2f}%" if group.codes else ""
    return (
        name,
        group.equal,
        group.changed,
        share,
        group.other_grid,
        group.only_a,
        group.only_b,
        group.facts_changed,
    )
