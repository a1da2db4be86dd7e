"""Writes the clips of shards into an HDF5 file that VideoGPT or TATS trains on (see `vtok.datasets.hdf5`)."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from jaxtyping import UInt8

from schemas.errors import IntegrityError, UsageError
from schemas.paths import ObjectPath, as_path
from vtok import artefacts
from vtok.datasets.hdf5 import ENDINGS, SPLITS
from vtok.files import atomic_file
from vtok.shards.codec import decode_extras

_CHUNK = 1 << 20  # bytes
_MOST_NAMES = 4000  # an attribute holds 64 KiB, a name takes 16 bytes of it


class _Row(NamedTuple):
    frames_thwc: UInt8[np.ndarray, "t h w 3"]
    label: int | None
    actions: np.ndarray | None


def write_hdf5(
    shards: str | Path, out: str | Path, *, form: Literal["videogpt", "tats"] = "videogpt"
) -> dict[str, int]:
    """Every clip becomes a video of its split; memory holds one clip at a time.

    Labels are written where every clip has one, `actions` where every clip has them; sound, captions and other signals
    stay behind. The same shards give the same bytes.

    Args:
        shards: a finished shards folder, local or in an object store.
        out: the file, .h5 or .hdf5; it appears when it is whole, and an existing one is replaced. For an object store
            it is written below the system's temporary folder (TMPDIR) first.
        form: `videogpt`: N starts; `tats`: N + 1, the last one the number of frames.

    Returns:
        Videos of each split.

    Raises:
        UsageError: no shards, or a name that the layout `hdf5` would not find.
        IntegrityError: a shard is damaged, or clips differ in size.
        VtokError: the file cannot be written.
    """
    folder, out = as_path(shards), as_path(out)
    if out.suffix.lower() not in ENDINGS:
        raise UsageError("the file must end in .h5 or .hdf5", at=str(out))
    card = artefacts.load(folder, "shards")
    index = [row for row in artefacts.load_index(folder).to_pylist() if row["rows"]]
    counts = dict.fromkeys(sorted({row["split"] for row in index}), 0)
    for row in index:
        counts[row["split"]] += row["rows"]
    if others := counts.keys() - set(SPLITS):
        raise UsageError(f"the layout hdf5 does not know the split {min(others)}", at=str(folder))
    with _local_file(out) as name, h5py.File(name, "w") as file:
        for split, count in counts.items():
            parts = [row for row in index if row["split"] == split]
            _write_split(file, split, count, _clips(folder, parts), form, card.facts["classes"])
    return counts


@contextmanager
def _local_file(out: Path) -> Iterator[str]:
    """The name of a local file that becomes `out` at the end; HDF5 seeks while it writes, which no store can take."""
    if not isinstance(out, ObjectPath):
        with atomic_file(out) as stream:  # h5py opens the temporary file by its name; this handle then flushes it
            yield stream.name
        return
    with tempfile.NamedTemporaryFile(prefix="vtok-", suffix=out.suffix) as local:
        yield local.name
        with mmap.mmap(local.fileno(), 0, access=mmap.ACCESS_READ) as data:
            out.write_bytes(memoryview(data))


def _clips(folder: Path, parts: list[dict[str, Any]]) -> Iterator[_Row]:
    from vtok.shards.reader import decode_sample, read_samples  # webdataset imports torch: only where it is needed

    for part in parts:
        path = folder / part["path"]
        artefacts.verify_part(folder, part["path"], part["sha256"])
        for sample in read_samples(path):
            clip = decode_sample(sample, path)
            yield _Row(clip.video_thwc, clip.label, decode_extras(sample).get("actions"))


def _write_split(file: h5py.File, split: str, count: int, rows: Iterator[_Row], form: str, classes: list[str]) -> None:
    data: h5py.Dataset | None = None
    actions: h5py.Dataset | None = None
    labels: list[int | None] = []
    length = 0
    for number, row in enumerate(rows):
        if data is None:
            length = len(row.frames_thwc)
            data = _create(file, f"{split}_data", count, row.frames_thwc)
            if row.actions is not None:
                actions = _create(file, f"{split}_actions", count, row.actions)
        if row.frames_thwc.shape[1:] != data.shape[1:] or len(row.frames_thwc) != length:
            raise IntegrityError(f"clip {number} of {split} is {row.frames_thwc.shape}, others differ", at=split)
        at = slice(number * length, (number + 1) * length)
        data[at] = row.frames_thwc
        if actions is not None and (row.actions is None or row.actions.shape[1:] != actions.shape[1:]):
            del file[f"{split}_actions"]  # not every clip has them
            actions = None
        if actions is not None:
            actions[at] = row.actions
        labels.append(row.label)
    file[f"{split}_idx"] = np.arange(count + (form == "tats"), dtype=np.int64) * length
    if None not in labels:
        file[f"{split}_labels"] = np.array(labels, np.int64)
        if 0 < len(classes) <= _MOST_NAMES:
            file[f"{split}_labels"].attrs["classes"] = classes


def _create(file: h5py.File, name: str, clips: int, first: np.ndarray) -> h5py.Dataset:
    """An array for the rows of all clips, in chunks of whole rows of about a megabyte."""
    rows = clips * len(first)
    chunk = min(max(1, _CHUNK // max(1, first[0].nbytes)), rows)
    return file.create_dataset(
        name, shape=(rows, *first.shape[1:]), dtype=first.dtype, chunks=(chunk, *first.shape[1:])
    )
