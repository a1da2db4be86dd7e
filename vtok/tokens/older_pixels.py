"""Which clips of a store an older revision of the decoding path may have spoilt.

A row of a store does not know how its source was stored. The manifest beside the store does: that of the shards, or of
the clips, if they are those that the store was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.card import Card
from schemas.clips import CLIPS
from schemas.config.run import STAGE_FOLDERS
from schemas.errors import VtokError
from schemas.shards import MANIFEST_NAME
from vtok import artefacts
from vtok.files import read_table
from vtok.video.faults import Doubt, decoding_of, doubts
from vtok.video.revision import DECODING_REVISION, planning_revision_of, revision_of


def doubts_of_store(folder: Path, card: Card) -> tuple[list[Doubt], list[str]]:
    """The clips in doubt, and what is worth knowing if they cannot be named.

    Args:
        folder: the store.
        card: its card.
    """
    oldest = min(revision_of(card.config), planning_revision_of(card.config))
    kind = "shards" if "shards" in card.inputs else "clips" if "clips" in card.inputs else ""
    if not kind or oldest >= DECODING_REVISION:
        return [], []
    beside = folder.parent / STAGE_FOLDERS[kind]
    try:
        same = artefacts.load(beside).fingerprint == card.inputs[kind]
        settings = _settings(card, artefacts.load(beside).config) if same else {}
        found = doubts(_rows(beside, kind), decoding_of("tokens", settings)) if same else []
    except (VtokError, OSError):
        same, found = False, []
    if same:
        return found, []
    return [], [
        f"its clips were decoded by an older vtok (revision {oldest}; this is {DECODING_REVISION}); which of them that "
        f"may have spoilt cannot be told without the {kind} that it was made from, beside the store"
    ]


def _settings(card: Card, beside: dict[str, Any]) -> dict[str, Any]:
    """The config of a store, with what that of its shards knows better."""
    return {**card.config, "decoding": {**card.config.get("decoding", {}), **beside.get("shards", {})}}


def _rows(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    names = [MANIFEST_NAME]
    if kind == "clips":
        names = artefacts.load_index(folder)["path"].to_pylist()
    for name in names:
        yield from read_table(folder / name, schema=CLIPS).to_pylist()
