"""What a check of a token store has found (`vtok.tokens.check`)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vtok.video.faults import Doubt


class Damage(NamedTuple):
    """Something that is damaged.

    Attributes:
        at: file.
        row_group: its number, or None where it is not a row group's.
        rows: how many rows it concerns; 0 where it concerns none or that cannot be told.
        what: what is wrong.
        hint: how to mend it.
    """

    at: str
    row_group: int | None
    rows: int
    what: str
    hint: str


class Findings(NamedTuple):
    """What a check found.

    Attributes:
        path: the folder.
        parts, damaged_parts: how many there should be, and how many of them have any damage.
        row_groups, damaged_row_groups: those that could be counted, and how many of them cannot be read or are wrong.
        rows, read_rows: by the index (without one: by the footers), and those that can be read and are right.
        damages: everything.
        notes: what is worth knowing and no damage.
        doubts: clips that an older revision of the decoding path may have spoilt.
    """

    path: Path
    parts: int
    damaged_parts: int
    row_groups: int
    damaged_row_groups: int
    rows: int
    read_rows: int
    damages: list[Damage]
    notes: list[str]
    doubts: list[Doubt]
