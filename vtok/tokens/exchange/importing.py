"""A token store from codes that lie in another tool's format."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.card import Card, Plan
from schemas.config.base import fingerprint
from schemas.errors import IntegrityError, UsageError, VtokError
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.files import sha256_of
from vtok.locks import exclusive
from vtok.parquet import recover_part
from vtok.tokens.check_ids import SeenIds
from vtok.tokens.exchange import FORMATS
from vtok.tokens.exchange.base import Facts, Row
from vtok.tokens.exchange.facts import NAME, Exported, read_facts
from vtok.tokens.exchange.rows import store_rows
from vtok.tokens.exchange.splits import Splits
from vtok.tokens.sealing import store_facts
from vtok.tokens.store import write_tokens

_PART_ROWS, _GROUP_ROWS = 4096, 256
_READ_ERRORS = (
    *(OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    *(MemoryError, pa.ArrowException),
)
"""What readers raise on files that are not what they should be: damaged ones, or another tool's."""


class Origin(NamedTuple):
    """What the codes are, where the source does not say it.

    Attributes:
        tokenizer: fingerprint of the tokenizer that made the codes.
        codebook_size: codes are below this.
        grid: (t, h, w) of a clip, for formats that hold flat codes.
        column: where the codes are, in formats with named columns.
        split: of which everything is; None: paths say it, or `vtok.json`.
    """

    tokenizer: str | None = None
    codebook_size: int | None = None
    grid: tuple[int, int, int] | None = None
    column: str = "codes"
    split: str | None = None


class _Unit(NamedTuple):
    """A part that is going to be made."""

    name: str
    split: str
    rows: int


def import_store(source: Path, out: Path, format_name: str | None, origin: Origin) -> Card:
    """Makes a token store of every split found. Interrupted, the same call goes on.

    Codes that do not say how they were made are stored as `fast`: nobody vouches that they do not depend on the batch.
    What the source turns out to be wrong about leaves nothing behind, so that the right call finds an empty folder.

    Args:
        source: a folder (or an HDF5 file). With a `vtok.json`, as vtok's export writes it, nothing else is needed.
        out: the store's folder.
        format_name: a key of `FORMATS`; None: what `vtok.json` says.
        origin: what `vtok.json` would say.

    Raises:
        UsageError: it is not known which tokenizer made the codes, their range, grid or split; nothing found; the rows
            are not what a store holds; or another job is at work in `out`.
        IntegrityError: a file is not the one that was exported, is damaged, or holds what cannot be true.
    """
    told = read_facts(source)
    name = format_name or (told.format if told else None)
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}" if name else "the format is unknown", at=str(source), hint=_hint())
    if told is not None and name != told.format:
        raise UsageError(f"this was exported to {told.format}, not {name}", at=str(source), hint="leave --format out")
    if told is not None and origin.split is not None:
        raise UsageError("the export names its splits itself", at=str(source), hint="leave --split out")
    facts, tokenizer = _facts(told, origin, source)
    digests = {path.relative_to(_base(source)).as_posix(): sha256_of(path) for path in _all(source)}
    for path, digest in told.files.items() if told else ():
        if digests.get(path) != digest:
            raise IntegrityError("not the file that was exported", at=str(source / path), hint="copy or export it anew")
    found, counts = _found(source, name, facts, Splits(tuple(told.splits) if told else None, origin.split))
    _check_splits(counts, told.splits if told else None, source)
    units = [
        _Unit(f"{split}-{number:05d}.parquet", split, min(_PART_ROWS, rows - number * _PART_ROWS))
        for split, rows in counts.items()
        for number in range(-(-rows // _PART_ROWS))
    ]
    config = {
        "imported": name,
        "row_group_rows": _GROUP_ROWS,
        "tokenizer": tokenizer,
        "codebook_size": facts.codebook_size,
        "audio_codebook_size": facts.audio_codebook_size,
        "grid": list(facts.grid) if facts.grid else None,
        "column": facts.column,
        "mode": told.mode if told else "fast",
        "classes": told.classes if told else [],
        **({"audio": dict(facts.audio)} if facts.audio else {}),
    }
    plan = artefacts.make_plan("tokens", config, {"source": fingerprint(digests)}, [unit.name for unit in units])
    with exclusive(out):
        card = artefacts.begin(out, plan)
        if card is not None:
            return card
        making = _Making(source, out, plan, facts)
        try:
            parts = making.parts(units, found)
        except (UsageError, IntegrityError):
            if not making.recovered:  # what an earlier run made might be all that is left of a store
                with contextlib.suppress(OSError):
                    artefacts.discard(out, plan)
            raise
        totals, stored = store_facts(out, plan, parts)
        return artefacts.seal(out, plan, parts, counts=totals, facts=stored)


class _Making:
    """The parts of one import.

    Attributes:
        recovered: an earlier run made some of them.
    """

    def __init__(self, source: Path, out: Path, plan: Plan, facts: Facts) -> None:
        self.source, self.out, self.plan, self.facts = source, out, plan, facts
        self.recovered = False
        self._ids = SeenIds(out)

    def parts(self, units: list[_Unit], found: dict[str, list[Path]]) -> list[Part]:
        """Makes what is missing.

        Raises:
            UsageError, IntegrityError: the rows are not what a store holds.
        """
        parts: list[Part] = []
        form = FORMATS[self.plan.config["imported"]]
        with console.Progress("import", sum(unit.rows for unit in units), "clips") as bar:
            for split, files in found.items():
                read = _guarded(form.read(files, self.facts, split), self.source)
                stream = store_rows(read, self.source, split, self.facts)
                for unit in (unit for unit in units if unit.split == split):
                    rows = list(itertools.islice(stream, unit.rows))
                    if len(rows) != unit.rows:
                        raise IntegrityError(f"{split} has fewer clips than were counted", at=str(self.source))
                    parts.append(self._part(unit, rows))
                    bar.advance(unit.rows)
                if next(stream, None) is not None:
                    raise IntegrityError(f"{split} has more clips than were counted", at=str(self.source))
        for twice in self._ids.twice():
            raise _twice(twice.what, self.source)
        return parts

    def _part(self, unit: _Unit, rows: list[dict[str, Any]]) -> Part:
        names = [(row["clip_id"], row["view_id"]) for row in rows]
        if len(set(names)) < len(names):
            clip, view = next(name for number, name in enumerate(names) if name in names[:number])
            raise _twice(f"there are two rows of clip {clip!r}, view {view!r}", self.source)
        for group, start in enumerate(range(0, len(rows), _GROUP_ROWS)):
            some = names[start : start + _GROUP_ROWS]
            ids = pa.table({"clip_id": [clip for clip, _ in some], "view_id": [view for _, view in some]})
            self._ids.add(unit.name, group, ids)
        path, config = self.out / unit.name, self.plan.config
        try:
            part = recover_part(path, self.plan)
            self.recovered = True
            return part
        except IntegrityError:
            pass
        grids = {(row["grid_t"], row["grid_h"], row["grid_w"]) for row in rows}
        return write_tokens(
            path,
            rows,
            tokenizer=config["tokenizer"],
            codebook_size=self.facts.codebook_size,
            grid=grids.pop() if len(grids) == 1 else None,
            plan=self.plan.fingerprint,
            split=unit.split,
            rejects=[],
            row_group_rows=_GROUP_ROWS,
            point=f"tokens:{path.name}",
            audio_codebook_size=self.facts.audio_codebook_size,
            audio=self.facts.audio,
            mode=config["mode"],
            made_by={"imported": config["imported"]},
        )


def _twice(what: str, source: Path) -> IntegrityError:
    return IntegrityError(what, at=str(source), hint="every clip (and view of it) needs a clip_id of its own")


def _facts(told: Exported | None, origin: Origin, source: Path) -> tuple[Facts, str]:
    """What holds for all rows, and the tokenizer's fingerprint."""
    tokenizer = origin.tokenizer or (told.tokenizer if told else None)
    size = origin.codebook_size or (told.codebook_size if told else None)
    if not tokenizer or not size:
        raise UsageError(
            "nothing says which tokenizer made these codes",
            at=str(source),
            hint="give --tokenizer FOLDER of the tokenizer that made them; codes mean nothing without it",
        )
    if told is None:
        return Facts(size, grid=origin.grid, column=origin.column), tokenizer
    if (tokenizer, size) != (told.tokenizer, told.codebook_size):
        raise UsageError(
            f"tokenizer {told.tokenizer[:12]} with {told.codebook_size} codes made this export, not {tokenizer[:12]} "
            f"with {size}",
            at=str(source),
            hint="leave --tokenizer out",
        )
    return Facts(size, told.audio_codebook_size, origin.grid or told.grid, origin.column, told.audio), tokenizer


def _found(source: Path, name: str, facts: Facts, splits: Splits) -> tuple[dict[str, list[Path]], dict[str, int]]:
    """Files and clips of each split."""
    form = FORMATS[name]
    try:
        found = form.find(source, splits)
        counts = {split: form.count(files, facts, split) for split, files in found.items()}
    except _READ_ERRORS as error:
        raise _unreadable(source, error) from error
    if not sum(counts.values()):
        raise UsageError(f"no {name} files here", at=str(source), hint=_hint())
    return found, counts


def _guarded(rows: Iterator[Row], source: Path) -> Iterator[Row]:
    try:
        yield from rows
    except _READ_ERRORS as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Path, error: BaseException) -> VtokError:
    what = (str(error) or type(error).__name__).splitlines()[0]
    return IntegrityError(f"the files cannot be read: {what}", at=str(source), hint=f"are they whole? {_hint()}")


def _check_splits(counts: dict[str, int], told: dict[str, int] | None, source: Path) -> None:
    """Refuses splits that are not those of the export, and names that no part could have."""
    for split in counts:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", split, re.ASCII):
            raise UsageError(f"{split!r} is no name of a split", at=str(source), hint="use letters, digits, _ and -")
    if told is None or counts == told:
        return
    differ = next(split for split in sorted({*counts, *told}) if counts.get(split) != told.get(split))
    raise IntegrityError(
        f"split {differ} has {counts.get(differ, 0)} clips here, {told.get(differ, 0)} were exported",
        at=str(source),
        hint="copy or export it anew",
    )


def _hint() -> str:
    return f"--format: one of {', '.join(FORMATS)}"


def _base(source: Path) -> Path:
    return source.parent if source.is_file() else source


def _all(source: Path) -> list[Path]:
    """Every file that may decide what is read."""
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file() and path.name != NAME)
