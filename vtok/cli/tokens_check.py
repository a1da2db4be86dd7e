"""`vtok tokens check`: everything that is damaged in a store, part by part and row group by row group."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from schemas.errors import EXIT_DONE, EXIT_FAILED
from vtok import console
from vtok.cli.tokens_look import AsJson, Store, store_folder

if TYPE_CHECKING:
    from vtok.tokens.check import Findings


def check(path: Store, as_json: AsJson = False) -> int:
    """Verify every byte and every row offline; say all that is damaged and how to mend it."""
    from vtok.inspect_folder import planned_items
    from vtok.tokens.check import check_store

    folder = store_folder(path)
    with console.Progress("check", planned_items(folder), "rows") as bar:
        found = check_store(folder, advance=bar.advance)
    if as_json:
        console.say(json.dumps(_plain(found), indent=2, ensure_ascii=False))
    else:
        _show(found)
    return EXIT_FAILED if found.damages else EXIT_DONE


def _plain(found: Findings) -> dict[str, Any]:
    damages = [damage._asdict() for damage in found.damages]
    return {**found._asdict(), "path": str(found.path), "sound": not damages, "damages": damages}


def _show(found: Findings) -> None:
    if not found.damages:
        console.say(
            f"sound: {console.count(found.rows, 'rows')} in {console.count(found.parts, 'parts')}, "
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
    for note in found.notes:
        console.say(f"  note: {note}")
    if not found.damages:
        console.say(f"next: vtok tokens stats {found.path}")
