"""The base of all configs, and the fingerprint of anything that JSON can hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, typed, no unknown keys. Every field carries a description with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def plain(self) -> dict[str, Any]:
        """The config as JSON-compatible values, in declaration order."""
        return self.model_dump(mode="json")


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a field may hold: none for a plain value, one, or one for every `kind`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(_sections_within(annotation))


def section_of(annotation: Any, tree: Any) -> type[BaseModel] | None:
    """The config that describes `tree`, a mapping of this field: the one of its `kind`, else the first."""
    found = sections(annotation)
    kind = tree.get("kind") if isinstance(tree, dict) else None
    for model in found:
        if "kind" in model.model_fields and model.model_fields["kind"].default == kind:
            return model
    return found[0] if found else None


def _sections_within(annotation: Any) -> Iterator[type[BaseModel]]:
    for part in get_args(annotation):
        yield from sections(part)


def canonical(value: Any) -> bytes:
    """The one JSON encoding that fingerprints are taken over: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """sha256 (hex, 64 characters) of the canonical JSON of `value`, or of a `Config`'s plain form."""
    if isinstance(value, Config):
        value = value.plain()
    return hashlib.sha256(canonical(value)).hexdigest()


def fingerprint_of_list(items: Iterable[Any]) -> str:
    """`fingerprint` of the list of these items, of which one at a time is in memory."""
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        digest.update(b"," * (number > 0) + canonical(item))
    digest.update(b"]")
    return digest.hexdigest()
