"""The node's cache of flat parts (vtok/tokens/flat.py): what random access during training reads.

A part is laid out when its first row is asked for, out of bytes whose sha256 is that of the store's index. A flat
file's name says what it was made of, so none is ever stale, stores share what they have in common, and a part that was
made anew is laid out anew. One process lays a part out while the others of the node wait: the lock is the kernel's, on
the cache's folder, and ends with its holder. A file appears whole or not at all; what a killed process left is swept by
the next one. A damaged file is made again from its part. Everything may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

from schemas.errors import IntegrityError, VtokError
from vtok.files import atomic_file, sweep_temporaries
from vtok.hardware import cpu_count
from vtok.tokens.flat import VERSION, Damaged, Flags, FlatFile, FlatRow, PartFile, flat_row, write_flat
from vtok.tokens.parts import open_verified, require_maker
from vtok.user_cache import user_cache

CACHE_BYTES = 64 << 30
OPEN_FILES = 4096
"""Flat files that are mapped at a time: they hold no file descriptors, but the kernel allows 65,530 mappings."""
_SUFFIX = ".flat"
_TOGETHER = 4
"""Parts that are laid out at a time, where there are as many cores: each holds one in memory."""


class _Opened(NamedTuple):
    """A flat file, the bytes that were laid out for it (0: it was there), and how often a damaged one was found."""

    file: FlatFile
    added: int
    repaired: int


class FlatCache:
    """Rows of some parts, by part and number.

    Args:
        parts: the parts.
        flags: what is kept of a row; `flags.verified` off: nothing is ever compared.
        folder: of the cache; none: in the user's (VTOK_CACHE).
        limit: bytes that the cache's folder may hold; the files that were not opened for the longest go first. It is
            looked at once for every 64th of it that this process adds.

    Attributes:
        built: parts that this process has laid out.
        repaired: flat files that it found damaged and made again.
    """

    def __init__(
        self, parts: Sequence[PartFile], flags: Flags, *, folder: Path | None = None, limit: int = CACHE_BYTES
    ) -> None:
        self.parts, self.flags, self.limit = parts, flags, limit
        self.folder = folder or user_cache("tokens")
        self.built = self.repaired = 0
        self._files: dict[int, FlatFile] = {}
        self._added = limit  # so that the first one looks

    def __getstate__(self) -> dict[str, Any]:
        """For another process: mappings stay here."""
        return {**self.__dict__, "_files": {}}

    def row(self, part: int, number: int) -> FlatRow:
        """A row.

        Raises:
            IntegrityError: its part is damaged.
            VtokError: its part is missing, or the cache cannot be written to.
        """
        return flat_row(self.records([part], [number])[0], self.flags)

    def records(self, parts: Sequence[int], numbers: Sequence[int]) -> list[bytes]:
        """The bytes of some rows, each compared with its checksum: `vtok.tokens.flat.flat_row` reads one.

        Args:
            parts: the part of each row.
            numbers: of each row within its part.

        Raises:
            IntegrityError: a part is damaged.
            VtokError: a part is missing, or the cache cannot be written to.
        """
        files, verify, checksum, out = self._files, self.flags.verified, google_crc32c.value, []
        for part, number in zip(parts, numbers, strict=True):  # no call a row that can be spared: this is read time
            file = files.get(part)
            if file is None:
                self._open_together(parts)
                file = files.get(part) or self._open(part)
            bounds = file.bounds
            data = file.map[bounds[number] : bounds[number + 1]]  # a copy: nothing can change it after the comparison
            if verify and checksum(data) != file.crcs[number]:
                data = self._again(part, number)
            out.append(data)
        return out

    def _again(self, part: int, number: int) -> bytes:
        """A row whose file is damaged, out of a new file."""
        del self._files[part]
        self._path(part).unlink(missing_ok=True)
        self.repaired += 1
        file = self._open(part)
        data = file.map[file.bounds[number] : file.bounds[number + 1]]
        if google_crc32c.value(data) != file.crcs[number]:
            raise IntegrityError(
                f"a file of the cache is damaged whenever it is made: row {number}",
                at=str(self._path(part)),
                hint="the disk or the memory is at fault; set VTOK_CACHE to a folder on another disk",
            )
        return data

    def _open(self, part: int) -> FlatFile:
        self._make_room([part])
        return self._keep(part, self._make(part))

    def _open_together(self, parts: Iterable[int]) -> None:
        """Opens what is missing of some parts, on several cores: a run's first batch may touch a part a row."""
        missing = [part for part in dict.fromkeys(parts) if part not in self._files][: OPEN_FILES // 2]
        threads = min(_TOGETHER, cpu_count(), len(missing))
        if threads < 2:
            return
        self._make_room(missing)
        with ThreadPoolExecutor(threads) as pool:
            for part, opened in zip(missing, pool.map(self._make, missing), strict=True):
                self._keep(part, opened)

    def _make(self, part: int) -> _Opened:
        """A part's file, found or made. Several threads may be here: nothing of `self` changes."""
        added = 0
        file, repaired = self._found(part)
        if file is None:
            with self._alone(part) as alone:
                if alone:
                    sweep_temporaries(self._path(part).parent)
                file, again = self._found(part)  # another may have made it while this one waited
                repaired += again
                if file is None:
                    file, added = self._lay_out(part)
        if file.rows != self.parts[part].rows:
            raise IntegrityError(
                f"{file.rows} rows where the index has {self.parts[part].rows}",
                at=str(self.parts[part].path),
                hint="delete the part and _vtok.json, then run `vtok tokenize` again; only this part is made anew",
            )
        return _Opened(file, added, repaired)

    def _keep(self, part: int, opened: _Opened) -> FlatFile:
        self.repaired += opened.repaired
        if opened.added:
            self.built += 1
            self._added += opened.added
        if len(self._files) == OPEN_FILES:
            del self._files[next(iter(self._files))]
        self._files[part] = opened.file
        return opened.file

    def _found(self, part: int) -> tuple[FlatFile | None, int]:
        """A part's file if it is there, and whether a damaged one was."""
        path = self._path(part)
        try:
            file = FlatFile(path, self.parts[part], self.flags, verify=self.flags.verified)
        except FileNotFoundError:
            return None, 0
        except (Damaged, ValueError, OSError):
            with suppress(OSError):
                path.unlink()
            return None, 1
        with suppress(OSError):
            os.utime(path)
        return file, 0

    def _lay_out(self, part: int) -> tuple[FlatFile, int]:
        """A part's new file, and its bytes."""
        source, path = self.parts[part], self._path(part)
        sha256 = source.sha256 if self.flags.verified else None
        with open_verified(source.path, sha256, unchecked=source.unchecked) as file:
            if self.flags.verified:
                require_maker(file.metadata, source.path, source.tokenizer, source.codebook_size)
            try:
                with atomic_file(path, point="flat", durable=False) as stream:
                    os.fchmod(stream.fileno(), 0o600)
                    write_flat(stream, source, file, self.flags)
            except IntegrityError:
                raise
            except VtokError as error:
                raise VtokError(
                    f"the cache cannot be written: {error.what}",
                    at=str(path),
                    hint="set VTOK_CACHE to a folder on a local disk with room",
                ) from error
        file = FlatFile(path, source, self.flags, verify=self.flags.verified)
        return file, len(file.map)

    def _path(self, part: int) -> Path:
        digest = self.parts[part].sha256
        return self.folder / digest[:2] / f"{digest}-{VERSION}.{self.flags.number}{_SUFFIX}"

    @contextmanager
    def _alone(self, part: int) -> Iterator[bool]:
        """Waits until no other process of the node lays out a part in the same folder; yields whether that is sure."""
        folder = self._path(part).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise VtokError(
                f"the cache cannot be used: {error.strerror or error}",
                at=str(folder),
                hint="set VTOK_CACHE to a folder on a local disk with room",
            ) from error
        locked = False
        try:
            with suppress(OSError):  # where there are no locks, all lay it out: the same bytes under the same name
                fcntl.flock(handle, fcntl.LOCK_EX)
                locked = True
            yield locked
        finally:
            os.close(handle)

    def _make_room(self, parts: Sequence[int]) -> None:
        """Before these parts are opened: of what is there already nothing has to be laid out."""
        if self._added < self.limit // 64 or all(self._path(part).exists() for part in parts):
            return
        self._added = 0
        files = []
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            with suppress(OSError):
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= size
