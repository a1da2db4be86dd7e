"""Captions in a file of their own: TSV (name<TAB>caption), CSV (columns source, caption) or JSON lines of the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import UsageError
from vtok.datasets.base import composed, without_ending
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
            self._texts.setdefault(composed(file_of(name)), []).append(text)
        converted = {without_ending(name): name for name in self._texts}
        self._by_stem = {stem: name for stem, name in converted.items() if stem not in self._texts}

    def of(self, source: str) -> list[str]:
        """A video's captions: by its path below the root, by its file name, or by one of these without extension.

        The list may have another extension: videos are often converted after it was written.
        """
        name = self.name_of(source)
        return [] if name is None else self._texts[name]

    def name_of(self, source: str) -> str | None:
        """The name by which the list means a video, or None."""
        path = PurePosixPath(composed(source))
        exact = next((name for name in (str(path), path.name, path.stem) if name in self._texts), None)
        stems = (self._by_stem.get(str(path.with_suffix(""))), self._by_stem.get(path.stem))
        return exact or next((name for name in stems if name is not None), None)

    @property
    def names(self) -> Iterable[str]:
        """The names in the list, each once."""
        return self._texts.keys()


def captions_of(facts: dict[str, Any]) -> list[str]:
    """What a JSON object has as `caption`, or, where that is lacking, null or empty, as `text`: one, or a list."""
    for key in ("caption", "text"):
        held = facts.get(key)
        found = [one.strip() for one in (held if isinstance(held, list) else [held]) if isinstance(one, str)]
        if any(found):
            return [one for one in found if one]
    return []


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
                if not {"caption", "text"} & row.keys():
                    raise KeyError
                yield from ((str(row["source"]), text) for text in captions_of(row))
            else:
                name, text = line.rstrip("\r").split("\t", 1)
                yield name, text.strip()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(f"line {number} is no caption", at=str(path), hint=f"the forms are {_FORMS}") from None
