"""A token store from codes that lie in another tool's format."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.card import Card
from schemas.config.base import fingerprint
from schemas.errors import IntegrityError, UsageError
from schemas.tokens import tokens_schema
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.files import read_table, sha256_of
from vtok.parquet import recover_part
from vtok.tokens.exchange import FORMATS
from vtok.tokens.exchange.base import FACTS_NAME, ROWS_NAME, Facts, Row
from vtok.tokens.exchange.splits import Splits
from vtok.tokens.store import write_tokens

_PART_ROWS, _GROUP_ROWS = 4096, 256


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


def import_store(source: Path, out: Path, format_name: str | None, origin: Origin) -> Card:
    """Makes a token store of every split found. Interrupted, the same call goes on.

    Codes that do not say how they were made are stored as `fast`: nobody vouches that they do not depend on the batch.

    Args:
        source: a folder (or an HDF5 file). With a `vtok.json`, as vtok's export writes it, nothing else is needed.
        out: the store's folder.
        format_name: a key of `FORMATS`; None: what `vtok.json` says.
        origin: what `vtok.json` would say.

    Raises:
        UsageError: it is not known which tokenizer made the codes, their range or their grid; nothing found.
        IntegrityError: a file is not the one that was exported, is damaged, or holds a code beyond the codebook.
    """
    told = _told(source)
    name = format_name or told.get("format")
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}" if name else "the format is unknown", at=str(source), hint=_hint())
    if "format" in told and name != told["format"]:
        raise UsageError(
            f"this was exported to {told['format']}, not {name}", at=str(source), hint="leave --format out"
        )
    form = FORMATS[name]
    tokenizer = origin.tokenizer or told.get("tokenizer")
    size = origin.codebook_size or told.get("codebook_size")
    if not tokenizer or not size:
        raise UsageError(
            "nothing says which tokenizer made these codes",
            at=str(source),
            hint="give --tokenizer FOLDER of the tokenizer that made them; codes mean nothing without it",
        )
    grid = origin.grid or (tuple(told["grid"]) if told.get("grid") else None)
    facts = Facts(int(size), int(told.get("audio_codebook_size", 0)), grid, origin.column)
    digests = {path.relative_to(_base(source)).as_posix(): sha256_of(path) for path in _all(source)}
    for path, digest in told.get("files", {}).items():
        if digests.get(path) != digest:
            raise IntegrityError("not the file that was exported", at=str(source / path), hint="copy or export it anew")
    try:
        found = form.find(source, Splits(tuple(told["splits"]) if "splits" in told else None, origin.split))
        counts = {split: form.count(files, facts, split) for split, files in found.items()}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise IntegrityError(f"the {name} files cannot be read: {error}", at=str(source), hint=_hint()) from error
    if not sum(counts.values()):
        raise UsageError(f"no {name} files here", at=str(source), hint=_hint())
    _check_splits(counts, told.get("splits"), source)
    units = [
        (f"{split}-{number:05d}.parquet", split, min(_PART_ROWS, rows - number * _PART_ROWS))
        for split, rows in counts.items()
        for number in range(-(-rows // _PART_ROWS))
    ]
    config = {"imported": name, "row_group_rows": _GROUP_ROWS, "tokenizer": tokenizer, "codebook_size": size}
    config |= {"grid": list(grid) if grid else None, "column": origin.column, "mode": told.get("mode", "fast")}
    plan = artefacts.make_plan("tokens", config, {"source": fingerprint(digests)}, [unit[0] for unit in units])
    card = artefacts.begin(out, plan)
    if card is not None:
        return card
    parts: list[Part] = []
    shapes: set[tuple[int, int, int]] = set()
    tokens = 0
    with console.Progress("import", sum(counts.values()), "clips") as bar:
        for split, files in found.items():
            stream = _rows(form.read(files, facts, split), source, split, facts)
            for unit, _, rows in (unit for unit in units if unit[1] == split):
                some = list(itertools.islice(stream, rows))
                if len(some) != rows:
                    raise IntegrityError(f"{split} has fewer than {counts[split]} clips", at=str(source))
                shapes |= {(row["grid_t"], row["grid_h"], row["grid_w"]) for row in some}
                tokens += sum(len(row["codes"]) for row in some)
                parts.append(_part(out / unit, some, split, facts, tokenizer, plan))
                bar.advance(rows)
    stored = {
        "tokenizer": tokenizer,
        "codebook_size": facts.codebook_size,
        "audio_codebook_size": facts.audio_codebook_size,
        "grid": list(shapes.pop()) if len(shapes) == 1 else None,
        "mode": config["mode"],
        "classes": told.get("classes", []),
        "imported_from": name,
    }
    totals = {"clips": sum(counts.values()), "tokens": tokens, "parts": len(parts)}
    return artefacts.seal(out, plan, parts, counts=totals, facts=stored)


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
    return sorted(path for path in source.rglob("*") if path.is_file() and path.name != FACTS_NAME)


def _told(source: Path) -> dict[str, Any]:
    path = source / FACTS_NAME
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise IntegrityError("the facts of the export cannot be read", at=str(path), hint="export again") from error


def _rows(rows: Iterator[Row], source: Path, split: str, facts: Facts) -> Iterator[dict[str, Any]]:
    """Complete rows of the store: what the source does not know is filled in."""
    beside = source / ROWS_NAME.format(split)
    known: Iterator[dict[str, Any]] = itertools.repeat({})
    if beside.is_file():
        known = iter(read_table(beside).to_pylist())
    schema = tokens_schema(facts.codebook_size, facts.audio_codebook_size)
    for number, row in enumerate(rows):
        columns = {**row.columns, **next(known, {})}
        codes = np.asarray(row.codes)
        grid = _grid(codes, columns, facts, source)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < facts.codebook_size:
            raise IntegrityError(
                f"clip {number} of {split} holds code {int(codes.max())}, the codebook has {facts.codebook_size}",
                at=str(source),
                hint="is it the right tokenizer, and the right column?",
            )
        filled = {
            "clip_id": f"{split}-{number:09d}",
            "split": split,
            "source": source.name,
            **{key: value for key, value in columns.items() if value is not None},
            **dict(zip(("grid_t", "grid_h", "grid_w"), grid, strict=True)),
            "codes": codes.reshape(-1).astype(facts.dtype),
        }
        yield {field.name: filled.get(field.name, _blank(field)) for field in schema}


def _grid(codes: np.ndarray, columns: dict[str, Any], facts: Facts, source: Path) -> tuple[int, int, int]:
    sides = [int(columns.get(f"grid_{axis}") or 0) for axis in "thw"]
    grid = codes.shape if codes.ndim == 3 else tuple(sides) if all(sides) else facts.grid
    if grid is None or math.prod(grid) != codes.size:
        raise UsageError(f"a clip has {codes.size} codes, not {grid}", at=str(source), hint="give --grid t,h,w")
    t, h, w = grid
    return t, h, w


_BLANKS: dict[str, Any] = {"view_id": "whole", "num_frames": -1, "height": -1, "width": -1}


def _blank(field: pa.Field) -> Any:
    """What a column holds of which the source says nothing."""
    if field.nullable:
        return None
    if field.name in _BLANKS:
        return _BLANKS[field.name]
    return {pa.string(): "", pa.float64(): 0.0, pa.bool_(): False}.get(field.type, 0)


def _part(path: Path, rows: list[dict[str, Any]], split: str, facts: Facts, tokenizer: str, plan: Any) -> Part:
    try:
        return recover_part(path, plan)
    except IntegrityError:
        pass
    grids = {(row["grid_t"], row["grid_h"], row["grid_w"]) for row in rows}
    return write_tokens(
        path,
        rows,
        tokenizer=tokenizer,
        codebook_size=facts.codebook_size,
        grid=grids.pop() if len(grids) == 1 else None,
        plan=plan.fingerprint,
        split=split,
        rejects=[],
        row_group_rows=_GROUP_ROWS,
        point=f"tokens:{path.name}",
        audio_codebook_size=facts.audio_codebook_size,
        mode=plan.config["mode"],
    )
