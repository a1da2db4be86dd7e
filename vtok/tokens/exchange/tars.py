"""WebDataset tars: `<split>/NNNNN.tar`, members `<clip>.npy` (codes of shape t, h, w) and `<clip>.json` (the rest)."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import IntegrityError, UsageError
from vtok.files import atomic_file
from vtok.tokens.exchange.base import Facts, Row, from_json, to_json
from vtok.tokens.exchange.splits import Splits, by_split

HOLDS_COLUMNS = True
_TAR_ROWS = 4096


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """Members have no time and no owner: the same rows give the same bytes. Clips are numbered; the json names them."""
    files: list[Path] = []
    stream = iter(rows)
    while some := list(itertools.islice(stream, _TAR_ROWS)):
        path = folder / split / f"{len(files):05d}.tar"
        with atomic_file(path) as sink, tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, row in enumerate(some, start=len(files) * _TAR_ROWS):
                array = io.BytesIO()
                np.save(array, row.codes.astype(facts.dtype))
                _add(tar, f"{number:09d}.npy", array.getvalue())
                _add(tar, f"{number:09d}.json", to_json(row.columns))
        files.append(path)
    return files


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    return by_split(folder, "*.tar", splits)


def count(files: list[Path], facts: Facts, split: str) -> int:
    return sum(1 for _ in _samples(files))


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    """Codes from `.npy` (never a pickle), labels from `.cls`, captions from `.txt`, other columns from `.json`.

    Raises:
        UsageError: a clip has no `.npy`.
        IntegrityError: a tar or an array is damaged.
    """
    for path, clip, members in _samples(files):
        if "npy" not in members:
            raise UsageError(f"{clip} has no .npy", at=str(path), hint="codes must be .npy members")
        try:
            codes = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
            columns: dict[str, Any] = {"clip_id": clip, **(from_json(members["json"]) if "json" in members else {})}
            if "cls" in members:
                columns["label"] = int(members["cls"])
            if "txt" in members:
                columns["caption"] = members["txt"].decode()
        except (ValueError, TypeError, EOFError) as error:
            raise IntegrityError(f"{clip} cannot be read: {error}", at=str(path)) from error
        yield Row(codes, columns)


def _samples(files: list[Path]) -> Iterator[tuple[Path, str, dict[str, bytes]]]:
    for path in files:
        try:
            with tarfile.open(path, "r:") as tar:
                members = ((m.name, tar.extractfile(m)) for m in tar if m.isfile())
                named = ((*_parted(name), stream.read()) for name, stream in members if stream is not None)
                kept = (member for member in named if member[1])
                for clip, group in itertools.groupby(kept, key=lambda member: member[0]):
                    found: dict[str, bytes] = {}
                    for _, extension, data in group:
                        if found.setdefault(extension, data) is not data:
                            raise IntegrityError(f"{clip}.{extension} is there twice", at=str(path))
                    yield path, clip, found
        except (tarfile.TarError, EOFError, OSError) as error:
            raise IntegrityError(f"the tar is damaged: {error}", at=str(path)) from error


def _parted(name: str) -> tuple[str, str]:
    """Clip and extension of a member: its file's name, cut at the first dot. No extension: it is of no clip."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""
