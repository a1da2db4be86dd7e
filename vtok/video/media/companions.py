"""Arrays that lie beside a video, with one row a frame: semantic maps, spectra.

A companion is named by `path#item`:

- `maps.npy#`: an array of NumPy's own format;
- `maps.h5#name`: a dataset of an HDF5 file; `name/3`: of it, the rows of video 3, which begin at element 3 of the
  dataset whose name has `_idx` for `_data`; `name[100:200]`: the rows 100 to 199;
- `stft.pickle#`: a pickled NumPy array (`vtok.video.media.pickles`).

Files are opened where a hostile one can do no harm: in the decoding child.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtok.video.errors import VideoError

if TYPE_CHECKING:
    import h5py

_NUMBERS = "biuf"  # kinds of arrays that are kept
_LARGEST_PICKLE = 1 << 30  # bytes
_ROWS = re.compile(r"^(?P<name>.+)\[(?P<start>\d+):(?P<stop>\d+)\]$")
_VIDEO = re.compile(r"^(?P<name>.+_data)/(?P<number>\d+)$")


def companion_address(path: str, item: str = "") -> str:
    """The `path#item` of a companion."""
    return f"{path}#{item}"


def split_address(address: str) -> tuple[str, str]:
    """Path and item of `path#item`."""
    path, mark, item = address.rpartition("#")
    return (path, item) if mark else (address, "")


def companion_size(paths: Iterable[Path]) -> int | None:
    """Bytes of the companions' files together, each counted once; None if one cannot be looked at."""
    try:
        return sum(path.stat().st_size for path in set(paths))
    except OSError:
        return None


def rows_digest(arrays: Mapping[str, np.ndarray]) -> str | None:
    """sha256 of what a clip has from its companions: names, types, shapes and values; None if that is nothing.

    Not of the files: those may hold the rows of a thousand videos.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest() if arrays else None


def read_companion(path: Path, item: str, indices: Sequence[int]) -> np.ndarray:
    """The rows of a clip's frames.

    Args:
        path: the file.
        item: see the module.
        indices: of the frames in the video.

    Returns:
        (len(indices), ...), of the type that the file has.

    Raises:
        VideoError: vanished, unreadable, corrupt, unsafe_path, or missing_frames if it has not enough rows.
    """
    try:
        if path.suffix == ".npy":
            return _npy_rows(path, indices)
        if path.suffix in (".h5", ".hdf5"):
            return _hdf5_rows(path, item, indices)
        if path.suffix in (".pickle", ".pkl"):
            return _pickle_rows(path, indices)
    except FileNotFoundError:
        raise VideoError("vanished", f"{path.name} is not there") from None
    except VideoError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        detail = str(error).replace(str(path), path.name).split("\n")[0][:200]
        raise VideoError("corrupt", f"{path.name}: {detail}") from None
    raise VideoError("unreadable", f"{path.name} is neither .npy, .h5, .hdf5, .pickle nor .pkl")


def _check(path: Path, item: str, shape: Sequence[int], kind: np.dtype[Any], indices: Sequence[int]) -> None:
    if not shape or kind.kind not in _NUMBERS:
        raise VideoError("corrupt", f"{path.name}: {item or 'it'} is no array of numbers with a row a frame")
    if indices and max(indices) >= shape[0]:
        raise VideoError("missing_frames", f"{path.name} has {shape[0]} rows, row {max(indices) + 1} is needed")


def _npy_rows(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Reads the rows alone: the whole array may be larger than the memory that there is."""
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, kind = read_header(stream)
        _check(path, "", shape, kind, indices)
        if columns_first and len(shape) > 1:
            raise VideoError("corrupt", f"{path.name} is stored by columns: save it with np.ascontiguousarray")
        begin, count = stream.tell(), math.prod(shape[1:])
        rows = np.empty((len(indices), count), kind)
        for row, index in zip(rows, indices, strict=True):
            stream.seek(begin + index * count * kind.itemsize)
            data = stream.read(count * kind.itemsize)
            if len(data) < count * kind.itemsize:
                raise VideoError("corrupt", f"{path.name} ends within row {index}")
            row[:] = np.frombuffer(data, kind)
    return rows.reshape(len(indices), *shape[1:])


def _hdf5_rows(path: Path, item: str, indices: Sequence[int]) -> np.ndarray:
    import h5py

    path.stat()  # h5py's own error for a file that is not there is any OSError
    with h5py.File(path, "r") as file:
        name, start, stop = item, 0, None
        if found := _ROWS.match(item):
            name, start, stop = found["name"], int(found["start"]), int(found["stop"])
        elif (found := _VIDEO.match(item)) and _find(path, file, item) is None:
            name, number = found["name"], int(found["number"])
            starts = _dataset(path, file, name.removesuffix("_data") + "_idx")[()].reshape(-1)
            if number >= len(starts):
                raise VideoError("corrupt", f"{path.name}: there is no video {number} in {name}")
            start, stop = int(starts[number]), int(starts[number + 1]) if number + 1 < len(starts) else None
        dataset = _dataset(path, file, name)
        _check(path, name, dataset.shape, dataset.dtype, [])
        stop = dataset.shape[0] if stop is None else min(stop, dataset.shape[0])
        if start < 0:
            raise VideoError("corrupt", f"{path.name}: {item} begins at row {start}")
        _check(path, name, (max(0, stop - start),), dataset.dtype, indices)
        first, last = min(indices), max(indices)
        return np.asarray(dataset[start + first : start + last + 1])[[index - first for index in indices]]


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this file: HDF5 can also point to other files."""
    import h5py

    dataset = _find(path, file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise VideoError("corrupt", f"{path.name}: there is no dataset {name!r}")
    if dataset.external or dataset.is_virtual or Path(dataset.file.filename) != path:
        raise VideoError("unsafe_path", f"{path.name}: {name} lies in another file")
    return dataset


def _find(path: Path, file: h5py.File, name: str) -> Any:
    """What has this name in the file, reached without a link to another file; None: nothing."""
    import h5py

    parts = [part for part in name.split("/") if part]
    for end in range(1, len(parts) + 1):
        where = "/".join(parts[:end])
        if isinstance(file.get(where, getlink=True), h5py.ExternalLink):
            raise VideoError("unsafe_path", f"{path.name}: {where} lies in another file")
    return file.get(name)


def _pickle_rows(path: Path, indices: Sequence[int]) -> np.ndarray:
    from vtok.video.media.pickles import read_pickled_array

    if path.stat().st_size > _LARGEST_PICKLE:
        raise VideoError("too_large", f"{path.name} has more than {_LARGEST_PICKLE >> 20} MiB")
    array = read_pickled_array(path.read_bytes())
    _check(path, "", array.shape, array.dtype, indices)
    return array[list(indices)]
