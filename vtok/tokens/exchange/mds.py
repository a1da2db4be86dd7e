"""MDS, the shards of mosaicml-streaming, version 2: `<split>/index.json` and `shard.NNNNN.mds`.

Written and read without that library, which needs torchvision. A shard is a row count, the rows' offsets (uint32), the
columns as JSON, and the rows: sizes of the columns that vary, then the columns' bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from schemas.errors import IntegrityError, UsageError
from vtok.files import write_bytes
from vtok.tokens.exchange.base import Facts, Row, from_json, same_grid, to_json
from vtok.tokens.exchange.splits import Splits, indices_by_split

HOLDS_COLUMNS = True
_SHARD_BYTES = 64 << 20


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """Columns `clip_id` (str), `codes` (ndarray of the grid's shape), `label` (int; -1: none), `row` (json: the rest).

    Raises:
        UsageError: clips differ in size.
    """
    target = folder / split
    files: list[Path] = []
    entries: list[dict[str, Any]] = []
    samples: list[bytes] = []
    columns: dict[str, Any] = {}
    size = 0

    def flush() -> None:
        path = target / f"shard.{len(entries):05d}.mds"
        data = _shard(samples, columns)
        write_bytes(path, data)
        files.append(path)
        raw = {"basename": path.name, "bytes": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}
        entries.append({**columns, "raw_data": raw, "samples": len(samples), "version": 2, "zip_data": None})
        samples.clear()

    for row in same_grid(rows, "mds"):
        columns = columns or _columns(row.codes.shape, facts)
        clip = str(row.columns["clip_id"]).encode()
        label = row.columns.get("label")
        rest = to_json(row.columns)
        head = np.array([len(clip), len(rest)], "<u4").tobytes()
        number = np.array(-1 if label is None else label, "<i8").tobytes()
        samples.append(head + clip + np.ascontiguousarray(row.codes.astype(facts.dtype)).tobytes() + number + rest)
        size += len(samples[-1])
        if size > _SHARD_BYTES:
            flush()
            size = 0
    if samples:
        flush()
    index = target / "index.json"
    write_bytes(index, json.dumps({"shards": entries, "version": 2}, sort_keys=True).encode())
    return [index, *files]


def _columns(shape: tuple[int, ...], facts: Facts) -> dict[str, Any]:
    kind = f"ndarray:{facts.dtype.name}:{','.join(map(str, shape))}"
    size = facts.dtype.itemsize * int(np.prod(shape))
    return {
        "column_encodings": ["str", kind, "int", "json"],
        "column_names": ["clip_id", "codes", "label", "row"],
        "column_sizes": [None, size, 8, None],
        "compression": None,
        "format": "mds",
        "hashes": ["sha256"],
        "size_limit": None,
    }


def _shard(samples: list[bytes], columns: dict[str, Any]) -> bytes:
    config = json.dumps({**columns, "version": 2}, sort_keys=True).encode()
    start = 4 + 4 * (len(samples) + 1) + len(config)
    offsets = start + np.concatenate([[0], np.cumsum([len(sample) for sample in samples])])
    return np.array([len(samples)], "<u4").tobytes() + offsets.astype("<u4").tobytes() + config + b"".join(samples)


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    """The indices."""
    return indices_by_split(folder, splits)


def _entries(files: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for index in files:
        if index.name != "index.json":
            continue
        try:
            entries = [
                (PurePosixPath(entry["raw_data"]["basename"]), entry)
                for entry in json.loads(index.read_bytes())["shards"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("the index cannot be read", at=str(index), hint="is this an MDS folder?") from error
        if away := [name for name, _ in entries if name.is_absolute() or ".." in name.parts]:
            raise IntegrityError(f"the index names a shard elsewhere, {away[0]}", at=str(index))
        yield from ((index.parent / name, entry) for name, entry in entries)


def count(files: list[Path], facts: Facts, split: str) -> int:
    return sum(entry["samples"] for _, entry in _entries(files))


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    """Columns named like the store's are taken over; `row`, as `write` makes it, holds all.

    Raises:
        UsageError: compressed shards, or no such column.
        IntegrityError: a shard's size or sha256 is not the index's.
    """
    for path, entry in _entries(files):
        if entry.get("zip_data") or entry["format"] != "mds":
            raise UsageError("only uncompressed MDS is read", at=str(path), hint="write it with compression=None")
        names, kinds, sizes = (entry[f"column_{what}"] for what in ("names", "encodings", "sizes"))
        if facts.column not in names:
            raise UsageError(f"no column {facts.column!r}", at=str(path), hint=f"--column: one of {', '.join(names)}")
        data = path.read_bytes()
        wanted = entry["raw_data"].get("hashes", {}).get("sha256")
        if len(data) != entry["raw_data"]["bytes"] or wanted not in (None, hashlib.sha256(data).hexdigest()):
            raise IntegrityError("the shard is not the one that the index describes", at=str(path), hint="export again")
        offsets = np.frombuffer(data, "<u4", entry["samples"] + 1, 4)
        for start, end in itertools.pairwise(offsets):
            fields = dict(zip(names, _fields(data[start:end], sizes), strict=True))
            kind = dict(zip(names, kinds, strict=True))
            columns = from_json(fields["row"]) if kind.get("row") == "json" else {}
            for name in ("clip_id", "caption", "class_name"):
                if kind.get(name) == "str":
                    columns.setdefault(name, fields[name].decode())
            if kind.get("label") == "int" and "label" not in columns:
                label = int(np.frombuffer(fields["label"], "<i8")[0])
                columns["label"] = None if label < 0 else label
            yield Row(_array(fields[facts.column], kind[facts.column], path), columns)


def _fields(sample: bytes, sizes: list[int | None]) -> Iterator[bytes]:
    varying = sizes.count(None)
    known = iter(np.frombuffer(sample, "<u4", varying).tolist())
    at = 4 * varying
    for size in sizes:
        length = next(known) if size is None else size
        yield sample[at : at + length]
        at += length


def _array(data: bytes, kind: str, path: Path) -> np.ndarray:
    parts = kind.split(":")
    if parts[0] != "ndarray" or len(parts) < 3:
        raise UsageError(f"codes are {kind}, not an array of one shape", at=str(path), hint="use ndarray:dtype:shape")
    return np.frombuffer(data, np.dtype(parts[1])).reshape([int(side) for side in parts[2].split(",")])
