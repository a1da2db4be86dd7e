"""Verifies a token store offline and says all that is damaged: part by part, row group by row group.

It needs neither card nor index to be there: what is left is checked against what is left. One row group is held at a
time, and 8 bytes for every row, to see ids that occur twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME, Card, Plan
from schemas.config.base import fingerprint
from schemas.config.run import STAGE_FOLDERS
from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.paths import as_path
from vtok import artefacts
from vtok.files import open_parquet, sha256_of
from vtok.parquet import read_metadata, recover_made_to
from vtok.tokens.check_ids import SeenIds
from vtok.tokens.check_rows import GroupCheck
from vtok.tokens.findings import Damage, Findings
from vtok.tokens.older_pixels import doubts_of_store
from vtok.tokens.pages import has_page_checksums
from vtok.tokens.parts import unpack_usage
from vtok.tokens.ragged import flat_codes
from vtok.tokens.sealing import sealable
from vtok.tokens.stats import health, usage

_AGAIN = "`vtok tokens repair` puts the part aside, then `vtok tokenize` makes this part anew and no other"
_SEAL = "`vtok tokens repair` makes card and index again from the parts"
_OLD = "delete the damaged file and _vtok.json, then run `vtok tokenize` again: what is missing is made anew"
_IMPORTED = {
    _AGAIN: "`vtok tokens repair` puts the part aside, then the same `vtok tokens import` makes this part anew",
    _OLD: "delete the folder, then run the same `vtok tokens import` again",
}
"""What to do about a store that `vtok tokenize` has not made."""
_FOOTER_FACTS = ("tokenizer", "codebook_size", "mode", "schema_version")
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)


def check_store(folder: str | Path, *, advance: Callable[[int], None] = lambda rows: None) -> Findings:
    """Checks every byte and every row.

    Args:
        folder: the store.
        advance: called with the number of rows of every part that is done.

    Raises:
        UsageError: no token store, or one of another schema version.
    """
    return _Check(as_path(folder)).run(advance)


class _Check:
    """One check: what is known so far, and the damages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damages: list[Damage] = []
        self.notes: list[str] = []
        self.row_groups = self.read_rows = self.rows = 0
        self.damaged_groups: set[tuple[str, int]] = set()
        self.ids = SeenIds(folder)
        self.rejects: list[dict[str, Any]] = []
        self.contents: dict[str, str] = {}  # what each part says it was made from
        self.repairable = True  # by this vtok
        self.tokens = self.silent = 0
        self.plan: Plan | None = None
        self.card: Card | None = None
        self.facts: dict[str, Any] = {}  # tokenizer, codebook_size, ... that all parts must share

    def run(self, advance: Callable[[int], None]) -> Findings:
        artefacts.refuse_old_names(self.folder)
        self.plan = self._plan()
        self.card = self._card()
        index = self._index()
        if self.card is not None:
            self.facts = {key: self.card.facts.get(key) for key in _FOOTER_FACTS[:3]}
            self.facts["schema_version"] = self.card.schema_version
        names = [row["path"] for row in index] if index else list(self.plan.units if self.plan else [])
        names = names or sorted(path.name for path in self.folder.glob("*.parquet") if not path.name.startswith("_"))
        self.digests = {row["sha256"]: row["path"] for row in index or []}
        rows = {row["path"]: row for row in index or []}
        for name in names:
            before = self.read_rows
            self._part(name, rows.get(name))
            advance(rows[name]["rows"] if name in rows else self.read_rows - before)
        if index:
            self.rows = sum(row["rows"] for row in index)
        sound = not any(damage.at in names for damage in self.damages)
        for twice in self.ids.twice():
            self._damage(twice.part, twice.what, rows=twice.rows)
        self._totals(index, sound)
        self._strays(names)
        self._neighbours()
        doubtful, unnamed = doubts_of_store(self.folder, self.card) if self.card is not None else ([], [])
        self.notes += unnamed
        damaged = {damage.at for damage in self.damages} & set(names)
        return Findings(
            self.folder,
            len(names),
            len(damaged),
            self.row_groups,
            len(self.damaged_groups),
            self.rows,
            self.read_rows,
            self.damages,
            self.notes,
            doubtful,
        )

    def _damage(self, at: str, what: str, *, hint: str = _AGAIN, group: int | None = None, rows: int = 0) -> None:
        if hint in (_AGAIN, _SEAL) and not self.repairable:
            hint = _OLD
        if self._imported({}):
            hint = _IMPORTED.get(hint, hint)
        self.damages.append(Damage(at, group, rows, what, hint))
        if group is not None:
            self.damaged_groups.add((at, group))

    def _imported(self, footer: dict[str, Any]) -> bool:
        """Whether plan or card say that the store was imported, or the footer of a part says so of the part."""
        configs = [each.config for each in (self.plan, self.card) if each is not None]
        return any("imported" in each for each in [*configs, footer.get("made_by") or {}])

    def _plan(self) -> Plan | None:
        if not (self.folder / PLAN_NAME).exists() and not (self.folder / CARD_NAME).exists():
            kind = "no token store here" if self.folder.is_dir() else "no such folder"
            raise UsageError(kind, at=str(self.folder), hint="`vtok tokenize RECIPE` makes one")
        try:
            plan = artefacts.load_plan(self.folder)
        except IntegrityError as error:
            self.repairable = (self.folder / CARD_NAME).exists()
            self._damage(PLAN_NAME, error.what, hint="delete the folder and make it again, or go on without resuming")
            return None
        if plan.kind != "tokens":
            raise UsageError(f"this is a {plan.kind} folder, not tokens", at=str(self.folder))
        self.repairable = sealable(plan)
        return plan

    def _card(self) -> Card | None:
        if not (self.folder / CARD_NAME).exists():
            self._damage(CARD_NAME, "the card is missing", hint=_SEAL)
            return None
        try:
            return artefacts.load(self.folder, "tokens")
        except IntegrityError as error:
            self._damage(Path(error.at).name, error.what, hint=_SEAL)
        try:
            return artefacts.read_card(self.folder)
        except IntegrityError:
            return None

    def _index(self) -> list[dict[str, Any]] | None:
        """The rows of the index; None: parts are checked against themselves only."""
        try:
            index = artefacts.load_index(self.folder).to_pylist()
        except VtokError as error:
            if not any(damage.at == INDEX_NAME for damage in self.damages):
                self._damage(INDEX_NAME, error.what, hint=_SEAL)
            return None
        if self.plan is not None and [row["path"] for row in index] != self.plan.units:
            self._damage(INDEX_NAME, "it does not list the parts that were planned", hint=_SEAL)
        if self.card is not None and self.plan is not None:
            for key in ("config", "inputs", "schema_version"):
                if getattr(self.card, key) != getattr(self.plan, key):
                    self._damage(CARD_NAME, f"its {key} is not that of the plan", hint=_SEAL)
        return index

    def _part(self, name: str, row: dict[str, Any] | None) -> None:
        """Everything about one part: bytes, footer, pages, rows."""
        path, rows = self.folder / name, row["rows"] if row else 0
        try:
            actual = sha256_of(path)
        except OSError as error:
            self._damage(name, f"the part is missing: {error.strerror}", rows=rows)
            return
        self._bytes(path, row, actual)
        try:
            footer = read_metadata(path, ("plan", "split", "rejects", *_FOOTER_FACTS, "usage"))
        except IntegrityError as error:
            self._damage(name, f"{error.what}: none of its rows can be read", rows=rows)
            return
        try:
            self._content(name, row, footer)
        except (*_READ_ERRORS, TypeError, KeyError, OverflowError) as error:  # a damaged footer may say anything
            self._damage(name, f"its footer or its rows make no sense: {error}", rows=rows)

    def _content(self, name: str, row: dict[str, Any] | None, footer: dict[str, Any]) -> None:
        """Footer and rows of a part that can be opened."""
        self._footer(name, row, footer)
        size = footer["codebook_size"]
        if not 0 < size <= 2**32:
            raise ValueError(f"a codebook of {size} codes")
        counted = np.zeros(size, np.int64)
        before, found = len(self.damaged_groups), 0
        for group, table in self._groups(self.folder / name):
            found += table.num_rows
            self._rows(name, group, table, footer, counted)
        if len(self.damaged_groups) == before:
            if row is not None and found != row["rows"]:
                self._damage(name, f"{found} rows where the index has {row['rows']}", rows=abs(found - row["rows"]))
            self._health(name, footer, counted)
        self.rows += found
        self.tokens += int(counted.sum())

    def _bytes(self, path: Path, row: dict[str, Any] | None, actual: str) -> None:
        size = path.stat().st_size
        if row is not None and actual == row["sha256"]:
            if size != row["bytes"]:
                self._damage(INDEX_NAME, f"{path.name} has {size} bytes, not {row['bytes']}", hint=_SEAL)
            return
        try:
            recover_made_to(path, None)
            sealed = True
        except IntegrityError:
            sealed = False
        if actual in self.digests:
            what = f"these are the bytes of {self.digests[actual]}: the files were swapped or copied"
            self._damage(path.name, what, hint=f"give {self.digests[actual]} its name back")
        elif row is not None:
            whole = "whole in itself, but " if sealed else ""
            cut = f"; it has {size} bytes, not {row['bytes']}" if size != row["bytes"] else ""
            self._damage(path.name, f"{whole}not the one that was written: its sha256 differs from the index{cut}")
        elif not sealed:
            self._damage(path.name, "its bytes are not those that were written: the seal in its footer does not fit")

    def _footer(self, name: str, row: dict[str, Any] | None, footer: dict[str, Any]) -> None:
        self.rejects += footer["rejects"]
        self.contents[name] = footer["plan"]
        by_part = self.plan is not None and "contents" in self.plan.config
        if self.plan is not None and not by_part and footer["plan"] != self.plan.fingerprint:
            self._damage(name, "it was made to another plan")
        if row is not None and (footer["split"] != row["split"] or len(footer["rejects"]) != row["rejects"]):
            self._damage(
                name,
                f"its footer says split {footer['split']!r}, {len(footer['rejects'])} rejects; the index "
                f"says {row['split']!r}, {row['rejects']}",
            )
        self.facts = self.facts or {key: footer[key] for key in _FOOTER_FACTS}
        for key in _FOOTER_FACTS:
            if footer[key] != self.facts[key]:
                self._damage(name, f"its footer has {key} {_short(footer[key])}, the store {_short(self.facts[key])}")

        sounds = [_maker_of_sounds(each) for each in (footer, self.card.facts if self.card is not None else footer)]
        if sounds[0] != sounds[1]:
            made, wanted = map(_short, sounds)
            self._damage(name, f"its footer says that tokenizer {made} encoded its sounds, the store {wanted}")

    def _groups(self, path: Path) -> Iterator[tuple[int, pa.Table]]:
        """The row groups that can be read; the others are damages."""
        with open_parquet(path, page_checksum_verification=True) as file, path.open("rb") as stream:
            layout = file.metadata
            if not has_page_checksums(stream, layout):
                self._damage(path.name, "its pages have no checksums: damage to them could go unnoticed")
            self.row_groups += layout.num_row_groups
            for group in range(layout.num_row_groups):
                try:
                    yield group, file.read_row_group(group)
                except _READ_ERRORS as error:
                    columns = ", ".join(_unreadable(file, group)) or str(error).splitlines()[0]
                    rows = layout.row_group(group).num_rows
                    self._damage(path.name, f"a page is damaged (columns: {columns})", group=group, rows=rows)

    def _rows(self, name: str, group: int, table: pa.Table, footer: dict[str, Any], counted: np.ndarray) -> None:
        classes = self.card.facts.get("classes") if self.card is not None else None
        view = None  # imported parts may mix views, and those of version 1 have none
        if "view_id" in table.column_names and not self._imported(footer):
            view = name.removesuffix(".parquet").partition(".")[2] or "whole"
        wrong = GroupCheck(
            table, footer["codebook_size"], footer["split"], classes, view=view, audio=footer.get("audio")
        )
        for fault in wrong.faults:
            self._damage(name, fault.what, group=group, rows=fault.rows)
        if not wrong.readable:
            return
        self.ids.add(name, group, table)
        self.silent += table["audio_codes"].null_count if footer.get("audio") else 0
        codes = flat_codes(table)
        counted += usage(codes[codes < len(counted)], len(counted))
        self.read_rows += table.num_rows - wrong.bad_rows

    def _health(self, name: str, footer: dict[str, Any], counted: np.ndarray) -> None:
        """The footer's histogram and what follows from it, against the codes."""
        try:
            same = np.array_equal(unpack_usage(footer["usage"], len(counted)), counted)
        except _READ_ERRORS:
            same = False
        if not same:
            self._damage(name, "the usage of the codebook in its footer is not that of its codes")
            return
        facts = health(counted)
        wanted = {"perplexity": facts.perplexity, "entropy_bits": facts.entropy_bits, "dead_codes": facts.dead}
        for key, value in wanted.items():
            if not np.isclose(footer.get(key, np.nan), value, rtol=1e-9, atol=1e-12):
                self._damage(name, f"{key} in its footer is {footer.get(key)}, of its codes {value}")

    def _totals(self, index: list[dict[str, Any]] | None, sound: bool) -> None:
        """The card's counts, the plan and the table of rejects against the parts."""
        contents = self.plan.config.get("contents") if self.plan is not None else None
        if sound and contents is not None and contents != fingerprint(self.contents):
            what = "the parts are not the ones that were planned: one of them was made from other clips or settings"
            self._damage(PLAN_NAME, what, hint="run `vtok tokenize` again: what does not fit is made anew")
        try:
            rejects = artefacts.load_rejects(self.folder).to_pylist()
            if sound and rejects != self.rejects:
                self._damage(REJECTS_NAME, "it does not hold the rejects of the parts", hint=_SEAL)
        except VtokError as error:
            self._damage(REJECTS_NAME, error.what, hint=_SEAL)
        if self.card is None or index is None:
            return
        wanted = {
            "clips": sum(row["rows"] for row in index),
            "parts": len(index),
            "rejects": sum(row["rejects"] for row in index),
            "bytes": sum(row["bytes"] for row in index),
            **({"tokens": self.tokens, "silent": self.silent} if sound else {}),
        }
        for key, number in wanted.items():
            if key in self.card.counts and self.card.counts[key] != number:
                self._damage(CARD_NAME, f"it counts {self.card.counts[key]:,} {key}, there are {number:,}", hint=_SEAL)

    def _strays(self, names: list[str]) -> None:
        known = {*names, CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME}
        strays = sorted(path.name for path in self.folder.iterdir() if path.name not in known and path.name[0] != ".")
        if strays:
            more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
            self.notes.append(f"no part of the store: {', '.join(strays[:5])}{more}")

    def _neighbours(self) -> None:
        """The shards and the tokenizer beside the store, if they are those that it was made from."""
        if self.card is None:
            return
        for kind in ("shards", "tokenizer"):
            beside = self.folder.parent / STAGE_FOLDERS[kind]
            if kind not in self.card.inputs or not (beside / CARD_NAME).exists():
                continue
            try:
                same = artefacts.load(beside).fingerprint == self.card.inputs[kind]
            except VtokError as error:
                self.notes.append(f"the {kind} beside the store cannot be opened: {error.what}")
                continue
            if not same:
                self.notes.append(f"the {kind} beside the store are not what it was made from")


def _unreadable(file: pq.ParquetFile, group: int) -> list[str]:
    """The columns of a row group that cannot be read."""
    bad = []
    for column in file.schema_arrow.names:
        try:
            file.read_row_group(group, columns=[column])
        except _READ_ERRORS:
            bad.append(column)
    return bad


def _maker_of_sounds(facts: dict[str, Any]) -> Any:
    """Fingerprint of the tokenizer of sound, of a footer or a card."""
    audio = facts.get("audio")
    return audio.get("fingerprint") if isinstance(audio, dict) else None


def _short(value: Any) -> str:
    return str(value)[:12]
