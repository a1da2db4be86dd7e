"""Opening, resuming, sealing and trusting artefact folders (the rules of schemas/card.py).

The life of a folder: `begin` writes the plan (or finds the same plan and lets the job resume), parts are written one by
one, `seal` writes index, rejects and card. `load` hands out the card only if the seal holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.card import (
    CARD_NAME,
    INDEX_NAME,
    MADE_WITH,
    OLD_NAMES,
    PLAN_NAME,
    REJECTS_NAME,
    Card,
    Kind,
    Plan,
    read_record,
    with_checksum,
)
from schemas.clips import REJECTS
from schemas.config.base import fingerprint
from schemas.errors import IntegrityError, UsageError
from schemas.shards import INDEX
from schemas.version import CODE_VERSION, OLDEST, SCHEMA_VERSIONS
from vtok import console
from vtok.files import crash_point, missing_part, read_table, sha256_of, sweep_temporaries, write_json, write_table
from vtok.sealed import seal_files

NEXT_COMMAND: dict[str, str] = {
    "clips": "vtok data shard",
    "shards": "vtok train tokenizer",
    "tokenizer": "vtok tokenize",
    "tokens": "vtok train prior",
    "prior": "vtok sample",
    "samples": "vtok evaluate",
    "metrics": "vtok report",
}
"""What comes after each artefact."""

MADE_BY: dict[str, str] = {
    "clips": "vtok data ingest",
    "shards": "vtok data shard",
    "tokenizer": "vtok train tokenizer",
    "tokens": "vtok tokenize",
    "prior": "vtok train prior",
    "samples": "vtok sample",
    "metrics": "vtok evaluate",
}
"""The command that makes each artefact."""

PART_WISE = ("clips", "shards", "tokens", "samples")
"""Artefacts that are made of parts and have an index of them."""


@dataclass(frozen=True)
class Part:
    """One finished part of an artefact.

    Attributes:
        path: file name below the folder.
        split: `train`, `test`, ...; `all` where a part holds every split.
        rows: clips in it.
        bytes: size of the file.
        sha256: of the file, hex.
        rejects: rows of `schemas.clips.REJECTS` as dicts, for the planned clips (or files) that are not in it.
        footer_sha256: of a Parquet part's end (`vtok.parquet.footer_sha256`).
    """

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str
    rejects: list[dict[str, Any]] = field(default_factory=list)
    footer_sha256: str | None = None


def make_plan(kind: Kind, config: dict[str, Any], inputs: dict[str, str], units: list[str]) -> Plan:
    """A plan with the present schema version. `config` is the part of the recipe that determines the result."""
    return Plan(kind=kind, schema_version=SCHEMA_VERSIONS[kind], config=config, inputs=inputs, units=units)


def begin(folder: Path, plan: Plan) -> Card | None:
    """Writes the plan into `folder`, or checks that the plan that is there is the same.

    Returns:
        The card if the artefact is complete already, else None: make what is missing. A complete one that other
        versions of the decoding programs made stays as it is, and that is said.

    Raises:
        UsageError: the folder holds an artefact of another plan, one that other versions have begun, or one of an older
            vtok; nothing is touched.
    """
    plan_path = folder / PLAN_NAME
    if plan_path.exists():
        refuse_old_names(folder)
        there = load_plan(folder)
        if only_made_otherwise(there, plan):
            return _made_otherwise(folder, there, plan)
        if there.fingerprint != plan.fingerprint:
            raise UsageError(
                f"the folder holds {there.kind} made from something else ({_difference(there, plan)})",
                at=str(folder),
                hint="choose another `out`, or delete this folder to make it anew",
            )
        if (folder / CARD_NAME).exists():
            return load(folder, plan.kind)
        sweep_temporaries(folder)
        return None
    if folder.exists() and any(p for p in folder.iterdir() if not p.name.startswith(".")):
        raise UsageError(
            "the folder is not empty and holds no vtok artefact",
            at=str(folder),
            hint="choose an empty or new folder: vtok never mixes its files with others",
        )
    write_plan(folder, plan)
    return None


def only_made_otherwise(there: Plan, plan: Plan) -> bool:
    """Whether two plans differ in the versions of the decoding programs, and otherwise only in what follows from it."""
    return there.config.get(MADE_WITH) != plan.config.get(MADE_WITH) and _recipe(there) == _recipe(plan)


def _recipe(plan: Plan) -> dict[str, Any]:
    config = {key: value for key, value in plan.config.items() if key not in (MADE_WITH, "contents")}
    return {**plan.model_dump(mode="json"), "config": config}


def _made_otherwise(folder: Path, there: Plan, plan: Plan) -> Card:
    """The card of a finished artefact of other versions; an unfinished one is not gone on with."""
    differing = "; ".join(differences(*(each.config.get(MADE_WITH, {}) for each in (there, plan))))
    if (folder / CARD_NAME).exists():
        card = load(folder, plan.kind)
        console.note(
            f"complete. These {there.kind} were made by other versions, and stay as they are ({differing}); "
            "`vtok data check` and `vtok tokens check` name clips that an older one may have spoilt"
        )
        return card
    raise UsageError(
        f"these {there.kind} were begun by other versions, which may decode otherwise ({differing})",
        at=str(folder),
        hint="go on with those versions (IMAGEIO_FFMPEG_EXE can name another ffmpeg program), choose another `out`, or "
        "delete this folder to make it anew",
    )


def refuse_old_names(folder: Path) -> None:
    """Stops at an artefact of a vtok that called its tables otherwise: nothing here would know its seal.

    Raises:
        UsageError: there are such tables.
    """
    found = [name for name in OLD_NAMES if (folder / name).exists()]
    if found:
        renamed = ", ".join(f"{name} to {Path(name).stem}.table" for name in found)
        raise UsageError(
            f"an older vtok made this folder: its tables are called {', '.join(found)}",
            at=str(folder),
            hint=f"make it anew in another folder; clips, tokens and samples can be kept if you rename {renamed}",
        )


def replan(folder: Path, there: Plan, plan: Plan, kept: set[str]) -> None:
    """Turns an artefact into the beginning of another one; only call it while holding the folder.

    Args:
        folder: finished or unfinished.
        there: its plan.
        plan: the new plan.
        kept: parts that stay; they must be what the new plan would make.
    """
    for name in (CARD_NAME, INDEX_NAME, REJECTS_NAME):  # the seal first: killed from here on, it is an unfinished one
        (folder / name).unlink(missing_ok=True)
    for name in there.units:
        if name not in kept:
            (folder / name).unlink(missing_ok=True)
    write_plan(folder, plan, point=f"{plan.kind}:replan")


def discard(folder: Path, plan: Plan) -> None:
    """Removes the parts and the plan of an artefact that turned out to be worth nothing before it was sealed."""
    for name in plan.units:
        (folder / name).unlink(missing_ok=True)
    (folder / PLAN_NAME).unlink()
    folder.rmdir()


def write_plan(folder: Path, plan: Plan, *, point: str = "") -> None:
    """Writes the plan with its checksum; `point` is a prefix of crash points."""
    write_json(folder / PLAN_NAME, with_checksum(plan.model_dump(mode="json")), point=point)


def load_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        IntegrityError: `_plan.json` is missing or damaged.
    """
    path = folder / PLAN_NAME
    try:
        return Plan.model_validate(read_record(path.read_bytes()))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise IntegrityError(
            f"the plan cannot be read: {type(error).__name__}",
            at=str(path),
            hint="delete the folder and make the artefact again",
        ) from error


def _difference(there: Plan, plan: Plan) -> str:
    """The first few dotted keys in which two plans differ, with both values."""
    found = differences(there.model_dump(mode="json"), plan.model_dump(mode="json"))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(each.removeprefix("config.") for each in found[:3]) + more


def differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The dotted keys in which two trees differ, with both values, for people."""
    a, b = _flatten(there), _flatten(now)
    absent = object()
    keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key, absent) != b.get(key, absent)]
    return [f"{key}: {_short(a, key)} there, {_short(b, key)} now" for key in keys]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        out: dict[str, Any] = {}
        for key, item in value.items():
            out |= _flatten(item, f"{prefix}.{key}" if prefix else key)
        return out
    return {prefix: value}


def _short(tree: dict[str, Any], key: str) -> str:
    text = json.dumps(tree[key]) if key in tree else "nothing"
    return text if len(text) <= 40 else f"{text[:24]}...{text[-8:]}"


def seal(
    folder: Path, plan: Plan, parts: list[Part], *, counts: dict[str, int], facts: dict[str, Any] | None = None
) -> Card:
    """Writes index, rejects and, last, the card of a part-wise artefact.

    Args:
        folder: where the parts are.
        plan: the plan they were made to.
        parts: one for every planned unit.
        counts: kind-specific counts; `rejects` and `bytes` are added.
        facts: kind-specific facts for the card.
    """
    by_path = {part.path: part for part in parts}
    if sorted(by_path) != sorted(plan.units):
        raise AssertionError("an artefact is sealed only when every planned part is there")
    ordered = [by_path[name] for name in plan.units]
    rows = [
        {
            "path": part.path,
            "split": part.split,
            "rows": part.rows,
            "rejects": len(part.rejects),
            "bytes": part.bytes,
            "sha256": part.sha256,
            "footer_sha256": part.footer_sha256,
        }
        for part in ordered
    ]
    rejects = [reject for part in ordered for reject in part.rejects]
    write_table(folder / REJECTS_NAME, pa.Table.from_pylist(rejects, schema=REJECTS))
    write_table(folder / INDEX_NAME, pa.Table.from_pylist(rows, schema=INDEX), point=f"{plan.kind}:{INDEX_NAME}")
    totals = {**counts, "rejects": len(rejects), "bytes": sum(part.bytes for part in ordered)}
    sealed = {"index_sha256": sha256_of(folder / INDEX_NAME), "rejects_sha256": sha256_of(folder / REJECTS_NAME)}
    return seal_card(folder, plan, **sealed, counts=totals, facts=facts)


def seal_card(
    folder: Path,
    plan: Plan,
    *,
    index_sha256: str,
    rejects_sha256: str | None = None,
    counts: dict[str, int],
    facts: dict[str, Any] | None = None,
) -> Card:
    """Writes the card, the last file of every artefact; it seals the files beside the parts, too (`vtok.sealed`)."""
    card = Card(
        kind=plan.kind,
        schema_version=plan.schema_version,
        code_version=CODE_VERSION,
        config=plan.config,
        config_fingerprint=fingerprint(plan.config),
        inputs=plan.inputs,
        counts=counts,
        index_sha256=index_sha256,
        rejects_sha256=rejects_sha256,
        files=seal_files(folder, plan.kind),
        facts=facts or {},
    )
    crash_point(f"{plan.kind}:before_card")
    write_json(folder / CARD_NAME, with_checksum(card.model_dump(mode="json")), point=f"{plan.kind}:card")
    return card


def load(folder: Path, kind: Kind | None = None) -> Card:
    """The card of a finished artefact, after checking that it fits its index.

    Raises:
        UsageError: no such folder, not a vtok artefact, another kind, another version's, or not finished yet.
        IntegrityError: the card is damaged, or the index is not the one that it seals.
    """
    path = folder / CARD_NAME
    wanted = kind or "vtok artefact"
    index = folder / INDEX_NAME
    if not path.exists():
        if (folder / PLAN_NAME).exists():
            refuse_old_names(folder)
            there = load_plan(folder)
            again = f"run `{MADE_BY.get(there.kind, 'the command')}` again with the same recipe: it resumes"
            raise UsageError(
                f"the {there.kind} in this folder are not finished",
                at=str(folder),
                hint="run the same `vtok tokens import` again: it resumes" if "imported" in there.config else again,
            )
        hint = f"make it first: {MADE_BY[kind]} RECIPE" if kind in MADE_BY else "give the folder of a vtok artefact"
        raise UsageError(f"no {wanted} here" if folder.exists() else "no such folder", at=str(folder), hint=hint)
    card = read_card(folder)
    if kind is not None and card.kind != kind:
        raise UsageError(
            f"this is a {card.kind} folder, not {kind}", at=str(folder), hint=f"{MADE_BY[kind]} makes {kind}"
        )
    if card.kind in PART_WISE and not index.exists():
        refuse_old_names(folder)
    oldest, known = OLDEST[card.kind], SCHEMA_VERSIONS[card.kind]
    if not oldest <= card.schema_version <= known:
        reads = f"{oldest} and {known}" if oldest < known else str(known)
        raise UsageError(
            f"schema version {card.schema_version} of {card.kind}; this vtok reads {reads}",
            at=str(path),
            hint="use the vtok version that made it, or make it again",
        )
    if card.kind in PART_WISE and not index.exists():
        raise IntegrityError(
            "the index is missing",
            at=str(index),
            hint="delete _vtok.json and run the same command again: index and card are rebuilt from the parts",
        )
    if index.exists() and sha256_of(index) != card.index_sha256:
        raise IntegrityError(
            "the index is not the one that the card seals",
            at=str(index),
            hint="delete _vtok.json and run the same command again: index and card are rebuilt from the parts",
        )
    return card


def read_card(folder: Path) -> Card:
    """The card alone, whatever became of the rest; `load` compares it with the index, too.

    Raises:
        IntegrityError: the card is missing or damaged.
    """
    path = folder / CARD_NAME
    try:
        return Card.model_validate(read_record(path.read_bytes()))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise IntegrityError(
            "the card is damaged", at=str(path), hint="delete the card and run the same command again: it is rebuilt"
        ) from error


def load_index(folder: Path) -> pa.Table:
    """The index table of a part-wise artefact, page checksums verified."""
    return read_table(folder / INDEX_NAME, schema=INDEX)


def load_rejects(folder: Path) -> pa.Table:
    """The rejects table of a part-wise artefact; what `load` accepts need not have a sound one.

    Raises:
        IntegrityError: it is damaged, or not the one that the card seals.
        VtokError: there is none.
    """
    path = folder / REJECTS_NAME
    try:
        sealed = read_card(folder).rejects_sha256
    except IntegrityError:  # `load` says so; without a card nothing but its pages' checksums vouches for the table
        sealed = None
    if sealed is not None and path.exists() and sha256_of(path) != sealed:
        raise IntegrityError(
            "the table of rejects is not the one that the card seals",
            at=str(path),
            hint="delete _vtok.json and run the same command again: the table is rebuilt from the parts",
        )
    return read_table(folder / REJECTS_NAME, schema=REJECTS)


def verify_part(folder: Path, path: str, sha256: str) -> Path:
    """The path of a part, after comparing its bytes with the index.

    Raises:
        IntegrityError: the file is missing, truncated or altered.
    """
    file = folder / path
    try:
        actual = sha256_of(file)
    except OSError as error:
        raise missing_part(file, error) from None
    if actual != sha256:
        raise IntegrityError(
            "the file is not the one that was written: its sha256 differs from the index",
            at=str(file),
            hint="delete it and _vtok.json, then run the command that made it again; only this part is made anew",
        )
    return file
