"""`vtok.json` of an export: what its data are, with a checksum of its own, as nothing else vouches for it.

Exports of before there was a checksum lack it, and are read without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.card import read_record, with_checksum
from schemas.errors import IntegrityError
from vtok.files import write_json
from vtok.tokens.parts import Mode

NAME = "vtok.json"


class Exported(BaseModel):
    """What an export says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(description="A key of `FORMATS`.")
    store: str = Field(description="Fingerprint of the store that was exported.")
    tokenizer: str = Field(description="Fingerprint of the tokenizer that made the codes.")
    codebook_size: int = Field(gt=0, description="Codes are below this.")
    audio_codebook_size: int = Field(default=0, ge=0, description="Audio codes are below this; 0: there are none.")
    audio: dict[str, Any] | None = Field(default=None, description="What made the audio codes, as the card has it.")
    grid: tuple[int, int, int] | None = Field(description="(t, h, w) of every clip; none: each has its own.")
    mode: Mode
    classes: list[str] = Field(description="Names by label.")
    splits: dict[str, int] = Field(description="Clips of each split.")
    files: dict[str, str] = Field(description="sha256 of every file beside this one.")


def write_facts(folder: Path, facts: Exported) -> None:
    """Writes `vtok.json` into a folder."""
    write_json(folder / NAME, with_checksum(facts.model_dump(mode="json")))


def read_facts(source: Path) -> Exported | None:
    """What `vtok.json` in a folder says; None: there is none.

    Raises:
        IntegrityError: it is damaged.
    """
    path = source / NAME
    if not path.is_file():
        return None
    try:
        return Exported.model_validate(read_record(path.read_bytes()))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise IntegrityError(
            f"the facts of the export are damaged: {type(error).__name__}", at=str(path), hint="copy or export it anew"
        ) from error
