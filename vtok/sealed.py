"""The files beside an artefact's parts that decide a result: the card seals them, and whoever reads one compares it.

A model's description, the shards' manifest, a confusion table: a flipped bit in any of them changes results as surely
as one in a part does. Parts are sealed by the index, and the index by the card's `index_sha256`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from schemas.card import SIDECARS, Card, Kind, SealedFile
from schemas.errors import IntegrityError
from vtok.files import sha256_of

_AGAIN = {
    "tokenizer": "copy the folder again, or train (or convert) it again",
    "prior": "copy the folder again, or train (or convert) it again",
    "metrics": "delete the folder and run `vtok evaluate` again",
}
_REBUILT = "delete _vtok.json and run the command that made it again: it is rebuilt from the parts"


def seal_files(folder: Path, kind: Kind) -> dict[str, SealedFile]:
    """Size and sha256 of the files of `SIDECARS` that are there, by name."""
    paths = [folder / name for name in SIDECARS.get(kind, ())]
    return {path.name: SealedFile(bytes=path.stat().st_size, sha256=sha256_of(path)) for path in paths if path.exists()}


def read_sealed(folder: Path, card: Card, name: str) -> bytes:
    """The bytes of a file that the card seals: those that were compared, not a second reading of them.

    Raises:
        IntegrityError: it is missing, not the one that was written, or the card does not vouch for it.
    """
    seal = _seal(folder, card, name)
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise _lost(folder, card, name, error) from None
    if len(data) != seal.bytes or hashlib.sha256(data).hexdigest() != seal.sha256:
        raise _other(folder, card, name)
    return data


def sealed_path(folder: Path, card: Card, name: str) -> Path:
    """The path of a file that the card seals, after comparing its bytes; for files too large to hold.

    Raises:
        IntegrityError: as `read_sealed`.
    """
    seal = _seal(folder, card, name)
    try:
        digest = sha256_of(folder / name)
    except OSError as error:
        raise _lost(folder, card, name, error) from None
    if digest != seal.sha256:
        raise _other(folder, card, name)
    return folder / name


def size_problems(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """What is missing or has another size, a line each: as much as can be told without reading a byte.

    Args:
        folder: an artefact.
        sizes: bytes by file name.
    """
    found = {}
    for path in folder.iterdir():
        if path.name in sizes and path.is_file():
            found[path.name] = path.stat().st_size
    lines = []
    for name, size in sizes.items():
        if name not in found:
            lines.append(f"{name} is missing")
        elif found[name] != size:
            lines.append(f"{name} has {found[name]:,} bytes, {size:,} were written")
    return lines


def _seal(folder: Path, card: Card, name: str) -> SealedFile:
    if name not in card.files:
        raise IntegrityError(f"the card does not vouch for {name}", at=str(folder / name), hint=_hint(card))
    return card.files[name]


def _other(folder: Path, card: Card, name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} is not the one that was written: its sha256 differs from the card",
        at=str(folder / name),
        hint=_hint(card),
    )


def _lost(folder: Path, card: Card, name: str, error: OSError) -> IntegrityError:
    missing = isinstance(error, FileNotFoundError)
    what = f"{name} is missing" if missing else f"{name} cannot be read: {error.strerror or type(error).__name__}"
    return IntegrityError(what, at=str(folder / name), hint=_hint(card))


def _hint(card: Card) -> str:
    return _AGAIN.get(card.kind, _REBUILT)
