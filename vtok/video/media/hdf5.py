"""Videos that lie after each other in the arrays of an HDF5 file, as VideoGPT and TATS store them.

`{split}_data` is uint8 (all frames, h, w, 3), `{split}_idx` holds each video's first row. `item` is `split/number`, and
the video ends where the next one starts, or with the data. `{split}_actions`, one row of numbers a frame, is optional.

A file may be hostile: nothing is read from outside it, so external links, virtual datasets and external storage are
refused, and every length is compared with what is there.
"""

from __future__ import annotations

import hashlib
import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import UInt8

from vtok.video.errors import VideoError
from vtok.video.media.sequence import FrameSequence, Opened, sequence_facts
from vtok.video.signatures import what_it_is

_CACHE = 64 << 20  # bytes of decompressed chunks: one chunk may hold many frames
_BLOCK = 8 << 20
_LINKS = 16  # soft links after each other
_MANY_FRAMES = 1_000_000
_MOST_DECLARED = 100  # times as many frames as were written; of more than a million, others are implausible
_FILES_KNOWN = 16


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading, without a lock: on shared disks locks fail, and nobody writes.

    Raises:
        VideoError: vanished, empty, unreadable.
    """
    try:
        if path.stat().st_size == 0:
            raise VideoError("empty", "0 bytes")
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CACHE)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except OSError as error:
        raise VideoError("unreadable", f"no HDF5 file: {what_it_is(path, 'HDF5 file') or _brief(error)}") from None
    with file:
        yield file


@contextmanager
def reading() -> Iterator[None]:
    """Turns what the library raises over a damaged file into a VideoError, `corrupt`."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise VideoError("corrupt", f"HDF5: {_brief(error)}") from None


def _brief(error: Exception) -> str:
    """The cause, which the library puts into brackets, unless it names the file's path."""
    text = str(error).rpartition("(")[2].rstrip(")'\"")
    return text if text and "/" not in text else type(error).__name__


def find_array(file: h5py.File, name: str) -> h5py.Dataset | None:
    """An array of numbers that lies in the file itself, or None if there is nothing of this name.

    Raises:
        VideoError: unsafe_path if it lies elsewhere, corrupt if it is no array of numbers.
    """
    if not _lies_within(file, name):
        return None
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iufb":
        raise VideoError("corrupt", f"{name} is no array of numbers")
    if found.is_virtual or found.external:
        raise VideoError("unsafe_path", f"{name} lies in other files")
    return found


def _lies_within(file: h5py.File, name: str) -> bool:
    """Follows soft links by hand, because opening a link opens whatever file it leads to.

    Raises:
        VideoError: unsafe_path.
    """
    for _ in range(_LINKS):
        reached = "/"
        parts = [part for part in posixpath.normpath(name).split("/") if part not in ("", ".")]
        for i, part in enumerate(parts):
            link = file[reached].get(part, getlink=True)
            if link is None:
                return False
            reached = posixpath.join(reached, part)
            if isinstance(link, h5py.ExternalLink):
                raise VideoError("unsafe_path", f"{reached} is a link to another file")
            if isinstance(link, h5py.SoftLink):
                name = posixpath.join(posixpath.dirname(reached), link.path, *parts[i + 1 :])
                break
            if not isinstance(link, h5py.HardLink):
                raise VideoError("unsafe_path", f"{reached} is a link of an unknown kind")
        else:
            return True
    raise VideoError("unsafe_path", f"{name} is a link to a link, {_LINKS} times over")


def find_video_arrays(file: h5py.File, split: str) -> tuple[h5py.Dataset, h5py.Dataset] | None:
    """(`{split}_data`, `{split}_idx`), or None if the file has neither.

    Raises:
        VideoError: unsafe_path; corrupt if they are not frames and their starts.
    """
    data, starts = find_array(file, f"{split}_data"), find_array(file, f"{split}_idx")
    if data is None and starts is None:
        return None
    if data is None or starts is None:
        raise VideoError("corrupt", f"there is one of {split}_data and {split}_idx, both are needed")
    if data.dtype != np.uint8 or data.ndim != 4 or data.shape[3] != 3 or 0 in data.shape[1:]:
        raise VideoError("corrupt", f"{split}_data is {data.dtype} {data.shape}, not uint8 (frames, h, w, 3)")
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise VideoError("corrupt", f"{split}_idx is {starts.dtype} {starts.shape}, not a list of whole numbers")
    return data, starts


@contextmanager
def open_slice(path: Path, item: str, fps: float) -> Iterator[Opened]:
    """Opens a video of the file.

    Args:
        path: the file.
        item: `split/number`.
        fps: frames per second, which the file does not say.

    Raises:
        VideoError: vanished, unreadable, unsafe_path, corrupt, changed, no_frames.
    """
    split, _, number = item.rpartition("/")
    with open_hdf5(path) as file:
        with reading():
            arrays = find_video_arrays(file, split)
            if arrays is None or not number.isdecimal() or int(number) >= len(arrays[1]):
                raise VideoError("changed", f"{item} is not in the file")
            data, starts = arrays
            start, end = _rows(data, starts, int(number))
            _, height, width, _ = data.shape
            written = Written(data)
            if end > start and not written.any(start, end):
                raise VideoError("missing_frames", "none of the video's frames was ever written to the file")
            if end - start > _MANY_FRAMES and end - start > _MOST_DECLARED * written.most:
                said = f"{end - start} frames are declared, and at most {written.most} were ever written to the file"
                raise VideoError("implausible", said)
            signals = _actions(file, split, len(data), start, end)
        facts = sequence_facts(codec="hdf5", fps=fps, height=height, width=width, frames=end - start)
        size = (end - start) * height * width * 3

        def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
            with reading():
                if not written.row(start + index):
                    raise VideoError("missing_frames", "it was never written to the file")
                return np.asarray(data[start + index])

        def digest() -> str:
            found = hashlib.sha256()
            step = max(1, _BLOCK // (height * width * 3))
            with reading():
                for at in range(start, end, step):
                    found.update(np.ascontiguousarray(data[at : min(at + step, end)]).data)
            for name, signal in signals.items():
                found.update(f"\0{name}\0{signal.dtype.str}\0".encode())
                found.update(np.ascontiguousarray(signal).data)
            return found.hexdigest()

        yield Opened(path, size, FrameSequence(facts, size, read, digest, signals))


class Written:
    """Which rows of an array were ever written: what was not is read as the fill value, as black frames.

    Only chunks tell: of an array in one piece it is known whether anything was written.

    Args:
        data: the array.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._rows, self._chunk = len(data), data.chunks[0] if data.chunks else 1
        self._known = _written_chunks(data)
        """Numbers of the chunks of rows that were written; None: all."""

    @property
    def most(self) -> int:
        """Rows that can have been written at most."""
        return self._rows if self._known is None else min(self._rows, len(self._known) * self._chunk)

    def row(self, number: int) -> bool:
        """Whether all of a row was written."""
        return self._known is None or number // self._chunk in self._known

    def any(self, start: int, end: int) -> bool:
        """Whether one of the rows from `start` up to `end`, at least one, was written."""
        first, last = start // self._chunk, (end - 1) // self._chunk
        return self._known is None or any(first <= chunk <= last for chunk in self._known)


_KNOWN_FILES: dict[tuple[str, int, int, str], frozenset[int] | None] = {}


def _written_chunks(data: h5py.Dataset) -> frozenset[int] | None:
    """For `Written`; found once for a file, because HDF5 walks its whole index: 25 ms for 200,000 chunks."""
    there = Path(data.file.filename).stat()
    key = (data.file.filename, there.st_mtime_ns, there.st_size, data.name)
    if key not in _KNOWN_FILES:
        if len(_KNOWN_FILES) >= _FILES_KNOWN:
            _KNOWN_FILES.clear()
        _KNOWN_FILES[key] = _look_for_chunks(data)
    return _KNOWN_FILES[key]


def _look_for_chunks(data: h5py.Dataset) -> frozenset[int] | None:
    if data.chunks is None:
        return None if data.id.get_storage_size() or not data.nbytes else frozenset()
    along = [-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() >= math.prod(along):
        return None
    pieces: Counter[int] = Counter()  # of each chunk of rows, which may be cut in height and width, too

    def count(chunk: Any) -> None:
        pieces[chunk.chunk_offset[0] // data.chunks[0]] += 1

    data.id.chunk_iter(count)
    return frozenset(number for number, found in pieces.items() if found == math.prod(along[1:]))


def _rows(data: h5py.Dataset, starts: h5py.Dataset, number: int) -> tuple[int, int]:
    """First row of a video, and the row after its last."""
    start = int(starts[number])
    end = int(starts[number + 1]) if number + 1 < len(starts) else len(data)
    if not 0 <= start <= end <= len(data):
        raise VideoError("corrupt", f"the video would be rows {start} to {end} of {len(data)}")
    return start, end


def _actions(file: h5py.File, split: str, frames: int, start: int, end: int) -> dict[str, np.ndarray]:
    actions = find_array(file, f"{split}_actions")
    if actions is None:
        return {}
    if actions.ndim < 1 or len(actions) != frames:
        raise VideoError("corrupt", f"{split}_actions is {actions.shape}, there are {frames} frames")
    return {"actions": np.asarray(actions[start:end])}
