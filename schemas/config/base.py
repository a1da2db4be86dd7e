"""The base of all configs, and the fingerprint of anything that JSON can hold."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, typed, no unknown keys. Every field carries a description with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def plain(self) -> dict[str, Any]:
        """The config as JSON-compatible values, in declaration order."""
        return self.model_dump(mode="json")


def canonical(value: Any) -> bytes:
    """The one JSON encoding that fingerprints are taken over: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """sha256 (hex, 64 characters) of the canonical JSON of `value`, or of a `Config`'s plain form."""
    if isinstance(value, Config):
        value = value.plain()
    return hashlib.sha256(canonical(value)).hexdigest()
