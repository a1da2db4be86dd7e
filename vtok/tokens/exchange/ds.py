"""datatrove's tokenized files: `<split>/tokens.ds` (little-endian codes, 2 or 4 bytes each), and `.index` with the end
of every clip (uint64, in codes)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from schemas.errors import IntegrityError
from vtok.files import atomic_file, write_bytes
from vtok.tokens.exchange.base import Facts, Row, blocks
from vtok.tokens.exchange.splits import Splits, by_split

HOLDS_COLUMNS = False


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """Also writes `.metadata` (tokenizer and bytes a code, number of codes), which datatrove's tools expect."""
    path = folder / split / "tokens.ds"
    ends, total = [], 0
    with atomic_file(path) as stream:
        for row in rows:
            stream.write(row.codes.reshape(-1).astype(facts.dtype.newbyteorder("<")).tobytes())
            total += row.codes.size
            ends.append(total)
    index, about = path.with_name("tokens.ds.index"), path.with_name("tokens.ds.metadata")
    write_bytes(index, np.array(ends, "<u8").tobytes())
    write_bytes(about, f"vtok|{facts.dtype.itemsize}\n{total}\n".encode())
    return [path, index, about]


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    return by_split(folder, "*.ds", splits)


def _ends(path: Path) -> np.ndarray | None:
    index = path.with_name(f"{path.name}.index")
    return np.frombuffer(index.read_bytes(), "<u8").astype(np.int64) if index.exists() else None


def count(files: list[Path], facts: Facts, split: str) -> int:
    return sum(sum(1 for _ in _clips(path, facts)) for path in files if path.suffix == ".ds")


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    """Clips as the index cuts them; without one, of the size of the grid.

    Raises:
        IntegrityError: the index does not end where the codes do.
    """
    for path in files:
        if path.suffix == ".ds":
            for codes in _clips(path, facts):
                yield Row(codes, {})


def _clips(path: Path, facts: Facts) -> Iterator[np.ndarray]:
    about = path.with_name(f"{path.name}.metadata")
    size = facts.dtype.itemsize
    if about.exists():
        size = int(about.read_text().partition("\n")[0].rpartition("|")[2] or size)
    if not path.stat().st_size:
        return
    flat = np.memmap(path, np.dtype(f"<u{size}"), mode="r")
    ends = _ends(path)
    if ends is None:
        yield from blocks(flat, facts.grid, path)
        return
    if not len(ends) or ends[-1] != len(flat) or (np.diff(ends, prepend=0) <= 0).any():
        raise IntegrityError(f"the index does not fit {len(flat)} codes", at=str(path), hint="export again")
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield np.array(flat[start:end])
