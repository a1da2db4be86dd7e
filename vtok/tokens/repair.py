"""Repairs a token store from what is intact: index and card are made again, damaged parts are moved aside.

A part vouches for itself: a sha256 over the whole file in its footer, a checksum on every page. So index and card may
be lost; where they are sound, parts are compared with them, too. Nothing is deleted but what parts can give back.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME, Plan
from schemas.clips import REJECTS
from schemas.config.base import fingerprint
from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.paths import ObjectPath
from vtok import artefacts
from vtok.artefacts import Part
from vtok.files import sweep_temporaries, table_bytes, write_bytes
from vtok.locks import exclusive
from vtok.parquet import read_metadata, recover_made_to
from vtok.tokens.sealing import contents_fingerprint, sealable, store_facts

ASIDE = "_damaged"
"""Folder in the store that damaged parts are moved to."""


class Repair(NamedTuple):
    """What was found and done.

    Attributes:
        sound: parts that are intact.
        damaged: parts that were moved aside, and what is wrong with them.
        missing: planned parts that are not there.
        rebuilt: files that were made again.
        complete: whether the store is whole and sealed now; if not, the command that made it makes what is lost.
    """

    sound: list[str]
    damaged: dict[str, str]
    missing: list[str]
    rebuilt: list[str]
    complete: bool


def repair(folder: Path) -> Repair:
    """Repairs a store, finished or not.

    Raises:
        UsageError: no token store of this version is there, or a job is at work in it.
        IntegrityError: neither plan nor card can be read.
    """
    if not folder.is_dir():
        raise UsageError("no such folder", at=str(folder), hint="give the folder of a token store")
    with exclusive(folder):
        artefacts.refuse_old_names(folder)
        plan, rebuilt = _plan(folder)
        sweep_temporaries(folder)
        known = _known_digests(folder)
        parts: dict[str, Part] = {}
        contents: dict[str, str] = {}
        damaged: dict[str, str] = {}
        for name in plan.units:
            if (folder / name).exists():
                try:
                    parts[name], contents[name] = _verified(folder / name, plan, known.get(name))
                except IntegrityError as error:
                    damaged[name] = error.what
        missing = [name for name in plan.units if name not in parts and name not in damaged]
        for name in damaged:
            _move_aside(folder, name)
        whole = len(parts) == len(plan.units) and _as_planned(plan, contents)
        if whole:
            rebuilt += _seal(folder, plan, list(parts.values()))
        else:
            for name in (CARD_NAME, INDEX_NAME, REJECTS_NAME):
                (folder / name).unlink(missing_ok=True)
        return Repair(list(parts), damaged, missing, rebuilt, whole)


def _as_planned(plan: Plan, contents: dict[str, str]) -> bool:
    """Whether parts are made from what was planned; of an imported store's each was compared with the plan."""
    return "imported" in plan.config or contents_fingerprint(contents) == plan.config["contents"]


def _plan(folder: Path) -> tuple[Plan, list[str]]:
    """The plan, from the card if it is lost or damaged; and what was made again."""
    plan: Plan | None = None
    damage: IntegrityError | None = None
    try:
        plan = artefacts.load_plan(folder)
    except IntegrityError as error:
        damage = error
    sealed = _sealed_plan(folder)
    rebuilt = []
    if sealed is not None and sealed.kind == "tokens" and plan != sealed:
        plan = sealed
        artefacts.write_plan(folder, plan)
        rebuilt.append(PLAN_NAME)
    if plan is None:
        assert damage is not None
        raise damage
    if plan.kind != "tokens":
        raise UsageError(f"this is a {plan.kind} folder, not tokens", at=str(folder), hint="give a token store")
    if not sealable(plan):
        imported = "delete the folder, and run the same `vtok tokens import` again"
        raise UsageError(
            f"an older vtok made this store (schema version {plan.schema_version}): its card cannot be made again",
            at=str(folder),
            hint=imported
            if "imported" in plan.config
            else "delete the damaged parts and _vtok.json, and run `vtok tokenize` of that version",
        )
    return plan, rebuilt


def _sealed_plan(folder: Path) -> Plan | None:
    """The plan that the card tells; None if card or index are damaged or not there."""
    try:
        card, units = artefacts.load(folder), artefacts.load_index(folder)["path"].to_pylist()
    except VtokError:
        return None
    if fingerprint(card.config) != card.config_fingerprint:
        return None
    return Plan(kind=card.kind, schema_version=card.schema_version, config=card.config, inputs=card.inputs, units=units)


def _known_digests(folder: Path) -> dict[str, str]:
    """sha256 of the parts, from the index if it is sealed."""
    try:
        artefacts.load(folder, "tokens")
        return {row["path"]: row["sha256"] for row in artefacts.load_index(folder).to_pylist()}
    except VtokError:
        return {}


def _verified(path: Path, plan: Plan, sha256: str | None) -> tuple[Part, str]:
    """A part of the plan, every byte of it checked, and what it was made from.

    Raises:
        IntegrityError: it is damaged, or another store's.
    """
    part = recover_made_to(path, plan.fingerprint if "imported" in plan.config else None)
    metadata = read_metadata(path, ("plan", "tokenizer", "codebook_size", "mode"))
    for name in ("tokenizer", "codebook_size", "mode"):
        if metadata[name] != plan.config[name]:
            raise IntegrityError(f"it is another store's: its {name} is {metadata[name]}", at=str(path))
    if sha256 not in (None, part.sha256):
        raise IntegrityError("it is not the part that the index names", at=str(path))
    return part, metadata["plan"]


def _move_aside(folder: Path, name: str) -> None:
    """Moves a part below `ASIDE`, beside those that lie there from an earlier time."""
    target, number = folder / ASIDE / name, 1
    while target.exists():
        target, number = folder / ASIDE / f"{name}.{number}", number + 1
    if isinstance(folder, ObjectPath):
        target.write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
        return
    target.parent.mkdir(exist_ok=True)
    (folder / name).replace(target)


def _seal(folder: Path, plan: Plan, parts: list[Part]) -> list[str]:
    """Seals the store unless it is sealed right; the files that were made for it."""
    counts, facts = store_facts(folder, plan, parts)
    try:
        card = artefacts.load(folder, "tokens")
        same = (card.config, card.inputs, card.facts) == (plan.config, plan.inputs, facts)
        if same and counts.items() <= card.counts.items():
            return _rejects(folder, parts)
    except VtokError:
        pass
    artefacts.seal(folder, plan, parts, counts=counts, facts=facts)
    return [REJECTS_NAME, INDEX_NAME, CARD_NAME]


def _rejects(folder: Path, parts: list[Part]) -> list[str]:
    """Writes the table of rejects, which no seal covers, unless it is what the parts say; its name if it was not."""
    rejects = [reject for part in parts for reject in part.rejects]
    data = table_bytes(pa.Table.from_pylist(rejects, schema=REJECTS))
    path = folder / REJECTS_NAME
    if path.exists() and path.read_bytes() == data:
        return []
    write_bytes(path, data)
    return [REJECTS_NAME]
