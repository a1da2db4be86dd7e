"""The two containers of a torch checkpoint: the zip file of torch 1.6 and later, and the stream of pickles before it.

`open_archive` finds the pickle and the storages; storages are read one at a time, when they are asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from vtok.convert.unpickle import SIZES, CheckpointUnpickler, Storage
from vtok.inert_pickle import RefusedPickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_PICKLE = 1 << 30


class NotACheckpoint(ValueError):
    """The file is something else."""


class DamagedCheckpoint(NotACheckpoint):
    """The file is cut short or damaged."""


class Archive(Protocol):
    """An open checkpoint.

    Attributes:
        kind: `zip` or `stream`.
        root: what the pickle holds, made of `vtok.convert.unpickle`'s stand-ins.
    """

    kind: str
    root: Any

    def read(self, storage: Storage) -> bytes:
        """The bytes of a storage, little-endian.

        Raises:
            NotACheckpoint: they are not all there, or damaged.
        """
        ...


_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, UnicodeDecodeError)
"""What zipfile raises of flipped bits: lengths, places before the file, encryption, patches, names in no alphabet."""


class ZipArchive:
    """`NAME/data.pkl`, and one `NAME/data/KEY` a storage, not compressed."""

    kind = "zip"

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._zip, self._size = archive, size
        names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(names) != 1:
            raise NotACheckpoint("a zip file, but torch did not write it: it has no data.pkl")
        self._folder = names[0].removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in archive.namelist():
            raise NotACheckpoint("a TorchScript program, which holds code: not a checkpoint")
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and self._entry("byteorder", 16) != b"little":
            raise NotACheckpoint("it was written on a big-endian machine")
        self.root = CheckpointUnpickler(io.BytesIO(self._entry("data.pkl", _MAX_PICKLE))).load()

    def _entry(self, name: str, most: int) -> bytes:
        try:
            info = self._zip.getinfo(self._folder + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
                raise NotACheckpoint(f"{name} is compressed or far too long, which torch never writes")
            if info.file_size > self._size:  # before that much memory is asked for
                raise DamagedCheckpoint(f"{name} is said to be longer than the whole file")
            return self._zip.read(info)
        except KeyError:
            raise DamagedCheckpoint(f"{name} is missing") from None
        except _DAMAGE as error:
            raise DamagedCheckpoint(f"{name} is damaged: {error}") from None

    def read(self, storage: Storage) -> bytes:
        size = storage.numel * SIZES[storage.dtype]
        data = self._entry(f"data/{storage.key}", size)
        if len(data) != size:
            raise DamagedCheckpoint(f"data/{storage.key} has {len(data)} bytes instead of {size}")
        return data


class StreamArchive:
    """Pickles one after the other: magic number, version, machine, object, keys; then the storages in that order."""

    kind = "stream"

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        if CheckpointUnpickler(file).load() != _MAGIC:
            raise NotACheckpoint("a pickle, but not a checkpoint of torch")
        if CheckpointUnpickler(file).load() != _PROTOCOL:
            raise NotACheckpoint("a stream of a torch that is not known")
        if not CheckpointUnpickler(file).load().get("little_endian", True):
            raise NotACheckpoint("it was written on a big-endian machine")
        unpickler = CheckpointUnpickler(file)
        self.root = unpickler.load()
        keys = CheckpointUnpickler(file).load()
        self._places: dict[str, int] = {}
        place = file.tell()
        for key in map(str, keys):
            storage = unpickler.storages.get(key)
            if storage is None:
                raise NotACheckpoint(f"storage {key[:40]} is not described")
            file.seek(place)
            numel = int.from_bytes(file.read(8), "little")
            if numel != storage.numel:
                raise DamagedCheckpoint(f"storage {key} has {numel} values instead of {storage.numel}")
            self._places[key] = place + 8
            place += 8 + numel * SIZES[storage.dtype]
            if place > size:
                raise DamagedCheckpoint("the file is cut short")

    def read(self, storage: Storage) -> bytes:
        if storage.key not in self._places:
            raise DamagedCheckpoint(f"storage {storage.key} is missing")
        self._file.seek(self._places[storage.key])
        size = storage.numel * SIZES[storage.dtype]
        data = self._file.read(size)
        if len(data) != size:
            raise DamagedCheckpoint("the file is cut short")
        return data


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An open checkpoint.

    Raises:
        NotACheckpoint: the file is something else, cut short or damaged.
        RefusedPickle: its pickle asks for a name that is not allowed.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        start, size = file.read(4), os.fstat(file.fileno()).st_size
        file.seek(0)
        try:
            if start[:2] == b"PK":
                opened: Archive = ZipArchive(stack.enter_context(zipfile.ZipFile(file)), size)
            elif start[:1] == b"\x80":
                opened = StreamArchive(file, size)
            else:
                raise NotACheckpoint(_what_else(path, start))
        except zipfile.BadZipFile:
            raise DamagedCheckpoint("the zip file is cut short or damaged: its directory cannot be read") from None
        except (NotACheckpoint, RefusedPickle, OSError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle raises anything
            raise DamagedCheckpoint(f"the pickle is damaged: {type(error).__name__}") from None
        yield opened


def _what_else(path: Path, start: bytes) -> str:
    if not start:
        return "the file is empty"
    with contextlib.suppress(OSError):
        if tarfile.is_tarfile(path):
            return "a tar file; torch wrote such checkpoints before version 0.1.10, and none of the known systems did"
    if start[:1] in (b"<", b"{"):
        return "a text file, perhaps the page of a download that did not work"
    return "neither torch's zip file nor its older stream"
