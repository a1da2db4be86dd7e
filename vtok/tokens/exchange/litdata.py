"""litdata's token chunks (`TokensLoader`): `<split>/index.json` and `chunk-*.bin`. Needs the library litdata."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import UsageError
from vtok.tokens.exchange.base import Facts, Row, blocks, same_grid
from vtok.tokens.exchange.splits import Splits, indices_by_split

HOLDS_COLUMNS = False
_CHUNK_CODES = 1 << 22


def _need() -> None:
    if importlib.util.find_spec("litdata") is None:
        raise UsageError("this format needs litdata, which is not installed", hint="pip install litdata")


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """A stream of int32 codes, clip after clip; read it with `TokensLoader(block_size=codes of a clip)`.

    Raises:
        UsageError: litdata is missing, or clips differ in size.
    """
    _need()
    import torch
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    target = folder / split
    target.mkdir(parents=True)
    writer: Any = None
    for number, row in enumerate(same_grid(rows, "litdata")):
        if writer is None:
            size = max(1, _CHUNK_CODES // row.codes.size) * row.codes.size
            writer = BinaryWriter(str(target), chunk_size=size, item_loader=TokensLoader())
        writer.add_item(number, torch.from_numpy(row.codes.reshape(-1).astype(np.int32)))
    if writer is not None:
        writer.done()
        writer.merge(1)
    return sorted(target.iterdir())


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    return indices_by_split(folder, splits)


def _stream(index: Path, facts: Facts) -> Any:
    _need()
    import litdata
    from litdata.streaming.item_loader import TokensLoader

    if facts.grid is None:
        blocks(np.zeros(0), None, index)
    size = int(np.prod(facts.grid or ()))
    return litdata.StreamingDataset(str(index.parent), item_loader=TokensLoader(block_size=size), shuffle=False)


def count(files: list[Path], facts: Facts, split: str) -> int:
    return sum(len(_stream(path, facts)) for path in files if path.name == "index.json")


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    for path in files:
        if path.name == "index.json":
            stream = _stream(path, facts)
            for number in range(len(stream)):
                yield Row(np.asarray(stream[number]), {})
