"""The plan and the card of an artefact folder: what it is, what made it, and the seal that it is complete.

`_plan.json` is written first and names every unit of work; each part describes itself; `_vtok.json`, the card, comes
last. A folder with a plan and no card is being made or was interrupted: the same command finishes it.

Both files carry a checksum of their own under `sha256`, because nothing else vouches for them. Those that were written
before there was one lack it, and are read without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.config.base import canonical, fingerprint

PLAN_NAME = "_plan.json"
CARD_NAME = "_vtok.json"
INDEX_NAME = "_index.table"
REJECTS_NAME = "_rejects.table"
"""Tables beside the parts are Parquet files, too. They are not called so: what reads a folder, or `*.parquet` in it,
would take them for rows (DuckDB, polars, daft and Hugging Face datasets look at all names alike)."""
OLD_NAMES = ("_index.parquet", "_rejects.parquet", "_clips.parquet")
"""What these tables, and the manifest beside shards, were called once; a folder that has such names is refused."""
MADE_WITH = "made_with"
"""Key of a plan's config: the decoding revision and the versions of the programs that decode and encode clips."""

_CHECKSUM = "sha256"

Kind = Literal["clips", "shards", "tokenizer", "tokens", "prior", "samples", "metrics"]


SIDECARS: dict[Kind, tuple[str, ...]] = {
    "shards": ("_clips.table",),
    "tokenizer": ("tokenizer.safetensors", "tokenizer.yaml"),
    "prior": ("prior.safetensors", "prior.yaml", "tokenizer.json"),
    "samples": ("grid.gif",),
    "metrics": ("metrics.parquet", "clips.parquet", "confusion.json"),
}
"""The files of each kind that are no parts and decide a result; those that are there are sealed by the card.

Logs and previews of a training (`metrics.jsonl`, `previews/`, TensorBoard's files) hold clocks and are not sealed; what
shows them says so.
"""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SealedFile(_Record):
    """A file as it was when the card was written."""

    bytes: int
    sha256: str


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
    rejects_sha256: str | None = Field(
        default=None, description="sha256 of the table of rejects; none: there is no such table, or an older card."
    )
    files: dict[str, SealedFile] = Field(
        default_factory=dict, description="The artefact's files of `SIDECARS` that are there, by name."
    )
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


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan or card as they are written: with the sha256 of their canonical JSON.

    Args:
        record: the fields; a checksum among them is replaced.
    """
    fields = json.loads(canonical({key: value for key, value in record.items() if key != _CHECKSUM}))
    return {**fields, _CHECKSUM: fingerprint(fields)}


def read_record(data: bytes) -> dict[str, Any]:
    """The fields of a plan or card, without its checksum.

    Args:
        data: the file.

    Raises:
        ValueError: no JSON object, or its fields are not those that the checksum was taken of.
    """
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    if _CHECKSUM in fields and fields.pop(_CHECKSUM) != fingerprint(fields):
        raise ValueError("its fields are not those that were written: their sha256 differs")
    return fields
