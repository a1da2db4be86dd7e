"""Captions in a file of their own: TSV (name<TAB>caption), CSV (columns source, caption) or JSON lines of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from schemas.errors import UsageError
from vtok.datasets.lists import TEXT_HINT, read_csv, reason

_FORMS = "name<TAB>caption (.tsv, .txt), or `source` and `caption` (.csv with a header, .jsonl)"


class Captions:
    """The captions of videos by name.

    Args:
        path: the file. A video may have several captions.

    Raises:
        UsageError: it cannot be read, or has another form.
    """

    def __init__(self, path: Path) -> None:
        self._texts: dict[str, list[str]] = {}
        for name, text in _pairs(path):
            self._texts.setdefault(file_of(name), []).append(text)

    def of(self, source: str) -> list[str]:
        """A video's captions: by its path below the root, by its file name, or by that without extension."""
        path = PurePosixPath(source)
        return next((self._texts[name] for name in (source, path.name, path.stem) if name in self._texts), [])


def file_of(name: str) -> str:
    """The file that a name means: of a web address, the last part of its path."""
    return PurePosixPath(urlsplit(name).path).name if "://" in name else name.removeprefix("./")


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from ((row["source"], row["caption"]) for row in read_csv(path, ["source", "caption"]))
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the captions cannot be read: {reason(error)}", at=str(path), hint=TEXT_HINT) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            if kind in (".jsonl", ".ndjson"):
                row = json.loads(line)
                name, text = row["source"], row["caption"]
            else:
                name, text = line.rstrip("\r").split("\t", 1)
            yield str(name), str(text).strip()
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"line {number} is no caption", at=str(path), hint=f"the forms are {_FORMS}") from None
