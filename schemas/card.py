"""The plan and the card of an artefact folder: what it is, what made it, and the seal that it is complete.

`_plan.json` is written first and names every unit of work; each part describes itself; `_vtok.json`, the card, comes
last. A folder with a plan and no card is being made or was interrupted: the same command finishes it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.config.base import fingerprint

PLAN_NAME = "_plan.json"
CARD_NAME = "_vtok.json"
INDEX_NAME = "_index.parquet"
REJECTS_NAME = "_rejects.parquet"

Kind = Literal["clips", "shards", "tokenizer", "tokens", "prior", "samples", "metrics"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Record):
    """What is going to be made. Two runs with equal plans make equal bytes."""

    kind: Kind
    schema_version: int
    config: dict[str, Any] = Field(description="The part of the recipe that determines the result.")
    inputs: dict[str, str] = Field(
        default_factory=dict, description="Fingerprints of the artefacts that it is made of."
    )
    units: list[str] = Field(default_factory=list, description="File names of the planned parts, in order.")

    @property
    def fingerprint(self) -> str:
        """sha256 over everything in the plan."""
        return fingerprint(self.model_dump(mode="json"))


class Card(_Record):
    """The seal of a finished artefact."""

    kind: Kind
    schema_version: int
    code_version: str
    config: dict[str, Any]
    config_fingerprint: str
    inputs: dict[str, str]
    counts: dict[str, int] = Field(description="For example clips, shards, rejects, bytes.")
    index_sha256: str = Field(description="sha256 of the index (or of the weights, for a trained model).")
    facts: dict[str, Any] = Field(default_factory=dict, description="Kind-specific facts, e.g. classes, grid.")

    @property
    def fingerprint(self) -> str:
        """Identity of the artefact: what it holds and what made it. 64 hex characters."""
        return fingerprint(
            {
                "kind": self.kind,
                "schema_version": self.schema_version,
                "config": self.config_fingerprint,
                "inputs": self.inputs,
                "index": self.index_sha256,
            }
        )
