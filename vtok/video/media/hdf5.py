"""Videos that lie after each other in the arrays of an HDF5 file, as VideoGPT and TATS store them.

`{split}_data` is uint8 (all frames, h, w, 3), `{split}_idx` holds each video's first row. `item` is `split/number`, and
the video ends where the next one starts, or with the data. `{split}_actions`, one row of numbers a frame, is optional.

A file may be hostile: nothing is read from outside it, so external links, virtual datasets and external storage are
refused, and every length is compared with what is there.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
_LOOKED_AT = 10_000  # chunks of a video of which all may be unwritten


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
        self._data = data
        self._chunks: tuple[int, ...] | None = data.chunks
        self._known: dict[int, bool] = {}
        if self._chunks is None:
            self._whole = data.id.get_storage_size() > 0 or data.nbytes == 0
        else:
            wanted = math.prod(-(-size // chunk) for size, chunk in zip(data.shape, self._chunks, strict=True))
            self._whole = data.id.get_num_chunks() >= wanted

    @property
    def most(self) -> int:
        """Rows that can have been written at most."""
        if self._whole or self._chunks is None:
            return len(self._data) if self._whole else 0
        return min(len(self._data), int(self._data.id.get_num_chunks()) * self._chunks[0])

    def row(self, number: int) -> bool:
        """Whether all of a row was written."""
        if self._whole or self._chunks is None:
            return self._whole
        at = number // self._chunks[0]
        if at not in self._known:
            steps = [range(0, size, chunk) for size, chunk in zip(self._data.shape[1:], self._chunks[1:], strict=True)]
            self._known[at] = all(
                self._data.id.get_chunk_info_by_coord((at * self._chunks[0], *rest)).size
                for rest in itertools.product(*steps)
            )
        return self._known[at]

    def any(self, start: int, end: int) -> bool:
        """Whether one of the rows from `start` up to `end` was written; True also where it takes too long to tell."""
        if self._whole or self._chunks is None:
            return self._whole
        if self._data.id.get_num_chunks() == 0:
            return False
        rows = range(start, end, self._chunks[0])
        return len(rows) > _LOOKED_AT or any(self.row(number) for number in (*rows, end - 1))


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
