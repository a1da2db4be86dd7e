"""Versions of the contracts. A reader of version N also reads N-1, or what OLDEST says; a writer writes the newest."""

from __future__ import annotations

CODE_VERSION = "0.1.0"
"""The package version that is written into artefacts (pyproject.toml says the same; a test compares them)."""

SCHEMA_VERSIONS: dict[str, int] = {
    "clips": 1,
    "shards": 2,
    "tokenizer": 1,
    "tokens": 2,
    "prior": 1,
    "samples": 1,
    "metrics": 1,
}
"""Schema version of each kind of artefact."""

OLDEST: dict[str, int] = {**{kind: max(1, version - 1) for kind, version in SCHEMA_VERSIONS.items()}, "shards": 2}
"""The oldest version of each kind that is read. Readers take the footer of shards of version 1 for a sample."""
