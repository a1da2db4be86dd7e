"""The HDF5 file of codes that TATS trains on (`--vtokens`): `<split>_data` (latent frames, h, w) and `<split>_idx` with
the first frame of every clip and, last, the number of frames. One file, `tokens.h5`, holds all splits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from schemas.errors import IntegrityError, UsageError
from vtok.tokens.exchange.base import Facts, Row
from vtok.tokens.exchange.splits import Splits, visible

HOLDS_COLUMNS = False
_NAME, _DATA = "tokens.h5", "_data"
_ROWS, _CHUNK_CODES = 256, 1 << 19


def write(folder: Path, split: str, rows: Iterable[Row], facts: Facts) -> list[Path]:
    """Adds a split to `tokens.h5`. Clips may differ in length; height and width are one for all.

    Raises:
        UsageError: they are not.
    """
    path = folder / _NAME
    starts, frames = [0], 0
    with h5py.File(path, "a", libver="latest") as file:
        data: h5py.Dataset | None = None
        stream = iter(rows)
        while some := [row.codes for row in itertools.islice(stream, _ROWS)]:
            if data is None:
                _, h, w = some[0].shape
                shape = {
                    "shape": (0, h, w),
                    "maxshape": (None, h, w),
                    "chunks": (max(1, _CHUNK_CODES // (h * w)), h, w),
                }
                data = file.create_dataset(f"{split}_data", dtype=facts.dtype, track_times=False, **shape)
            if any(codes.shape[1:] != data.shape[1:] for codes in some):
                raise UsageError("HDF5 holds clips of one height and width", hint="export to hf or webdataset")
            block = np.concatenate(some)
            data.resize(frames + len(block), axis=0)
            data[frames:] = block
            frames += len(block)
            starts += (starts[-1] + np.cumsum([len(codes) for codes in some])).tolist()
        file.create_dataset(f"{split}_idx", data=np.array(starts, np.int64), track_times=False)
    return [path]


def find(folder: Path, splits: Splits) -> dict[str, list[Path]]:
    """Files that have a split: all of whose names end in `_data`, whatever the file is called.

    Raises:
        UsageError: clips without their borders, or a split is wanted of a file that names its own.
    """
    found: dict[str, list[Path]] = {}
    for path in [folder] if folder.is_file() else sorted([*visible(folder, "*.h5"), *visible(folder, "*.hdf5")]):
        if splits.only is not None:
            raise UsageError("HDF5 files name their splits themselves", at=str(path), hint="leave --split out")
        with h5py.File(path) as file:
            for name in file:
                if not name.endswith(_DATA):
                    continue
                split = name.removesuffix(_DATA)
                if f"{split}_idx" not in file:
                    raise UsageError(f"{name} has no {split}_idx", at=str(path), hint="it says where clips begin")
                found.setdefault(split, []).append(path)
    return found


def _starts(file: h5py.File, split: str, path: Path) -> np.ndarray:
    """N + 1 borders; a file with N starts (VideoGPT's form) gets the last one."""
    frames, starts = len(file[f"{split}_data"]), file[f"{split}_idx"][:].astype(np.int64)
    if not len(starts) or starts[-1] != frames:
        starts = np.append(starts, frames)
    if starts[0] != 0 or (np.diff(starts) <= 0).any():
        raise IntegrityError(f"{split}_idx does not ascend from 0 to {frames}", at=str(path), hint="make it again")
    return starts


def count(files: list[Path], facts: Facts, split: str) -> int:
    total = 0
    for path in files:
        with h5py.File(path) as file:
            total += len(_starts(file, split, path)) - 1
    return total


def read(files: list[Path], facts: Facts, split: str) -> Iterator[Row]:
    """Clips with their own grid.

    Raises:
        IntegrityError: the index does not fit the data.
    """
    for path in files:
        with h5py.File(path) as file:
            data, starts = file[f"{split}_data"], _starts(file, split, path)
            if data.ndim != 3 or data.dtype.kind not in "ui":
                raise UsageError(f"{split}_data is {data.dtype} {data.shape}, not codes (frames, h, w)", at=str(path))
            for start, end in itertools.pairwise(starts):
                yield Row(data[start:end], {})
