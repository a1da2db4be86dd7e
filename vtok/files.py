"""The one door to the disk: files appear whole under their final name or not at all.

A local file is written under a temporary name beside its place, flushed to the disk, then renamed. An object of a store
(`s3://...`) is put whole, by a request that shows nothing until it is complete. `crash_point` lets the
tests stop the process at named moments around that; it does nothing unless the environment asks for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import IntegrityError, VtokError
from schemas.paths import ObjectPath, as_path
from vtok.parquet_writer import ROW_GROUP_ROWS, parquet_writer, write_rows

TEMP_MARK = ".vtok-tmp-"
_BLOCK = 1 << 20
_COPIED = 8 << 20  # bytes that are copied at a time


def crash_point(name: str) -> None:
    """Kills this process with SIGKILL if VTOK_CRASH_AT names this point; for crash tests only.

    Args:
        name: for example `shards:train-00001.tar:temp_written`. VTOK_CRASH_AT holds such a name; VTOK_CRASH_MARK the
            path of a file that is created first, to prove that the point was reached (and so it happens only once).
    """
    if os.environ.get("VTOK_CRASH_AT") != name:
        return
    mark = Path(os.environ["VTOK_CRASH_MARK"])
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), int(os.environ.get("VTOK_CRASH_SIGNAL", signal.SIGKILL)))


@contextmanager
def atomic_file(path: str | Path, *, point: str = "", durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a new file for writing that takes its final name only when the block ends without an error.

    The bytes of an object are held in memory until the block ends, and are then put.

    Args:
        path: the final name; its folder is made if need be. An existing file is replaced.
        point: prefix of the crash points `:temp_written`, `:before_rename`, `:after_rename` for the tests.
        durable: whether it must survive a power cut whole; off: for what checks itself and can be made again.

    Raises:
        VtokError: the disk is full, the folder cannot be written to or the store refuses; nothing is left under the
            final name.
    """
    path = as_path(path)
    if isinstance(path, ObjectPath):
        with _whole_object(path, point) as buffer:
            yield buffer
        return
    temp = path.with_name(f"{TEMP_MARK}{uuid.uuid4().hex}-{path.name}~")  # no reader's *.parquet or *.tar
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as stream:
            yield stream
            if point:
                crash_point(f"{point}:temp_written")
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        if point:
            crash_point(f"{point}:before_rename")
        temp.replace(path)
        if durable:
            _sync_folder(path.parent)
        if point:
            crash_point(f"{point}:after_rename")
    except OSError as error:
        _discard(temp)
        raise VtokError(
            f"cannot write the file: {error.strerror or error}",
            at=str(path),
            hint="make room or choose another folder, then run the same command again: finished parts are kept",
        ) from error
    except BaseException:
        _discard(temp)
        raise


@contextmanager
def _whole_object(path: ObjectPath, point: str) -> Iterator[IO[bytes]]:
    buffer = io.BytesIO()
    yield buffer
    if point:
        crash_point(f"{point}:temp_written")
        crash_point(f"{point}:before_rename")
    path.write_bytes(buffer.getbuffer())
    if point:
        crash_point(f"{point}:after_rename")


def _discard(temp: Path) -> None:
    with contextlib.suppress(OSError):
        temp.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | Path, data: bytes | bytearray, *, point: str = "") -> None:
    """Writes a whole file at once, atomically."""
    with atomic_file(path, point=point) as stream:
        stream.write(data)


def write_json(path: str | Path, value: Any, *, point: str = "") -> None:
    """Writes JSON with sorted keys, two-space indent and a final newline, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), point=point)


def table_bytes(
    table: pa.Table,
    *,
    row_group_size: int = ROW_GROUP_ROWS,
    metadata: dict[bytes, bytes] | None = None,
    **options: Any,
) -> bytes:
    """A table as a Parquet file with zstd and page checksums.

    Args:
        table: its rows.
        row_group_size: rows in a row group.
        metadata: for the file's footer. (In the table's schema it would be stored a second time, as base64.)
        options: settings that differ from `vtok.parquet_writer.SETTINGS`.
    """
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema, **options) as writer:
        write_rows(writer, table, row_group_size)
        if metadata:
            writer.add_key_value_metadata(metadata)
    return sink.getvalue()


def write_table(path: str | Path, table: pa.Table, *, point: str = "", **options: Any) -> None:
    """Writes `table_bytes` atomically; `options` go there."""
    write_bytes(path, table_bytes(table, **options), point=point)


def missing_part(path: str | Path, error: OSError, what: str = "folder of this part") -> VtokError:
    """The error for a part of an artefact that cannot be opened.

    Args:
        path: of the part.
        error: what the system said.
        what: the artefact, for the case that all of it is gone.
    """
    place = as_path(path)
    if not isinstance(place, ObjectPath) and not place.parent.is_dir():
        return VtokError(
            f"the {what} is gone",
            at=str(place.parent),
            hint="put it back, or run the command that made it; then run this command again",
        )
    return VtokError(
        f"a part is missing: {error.strerror or error}",
        at=str(place),
        hint="put it back, or run the command that made it; then run this command again",
    )


@contextmanager
def open_parquet(path: str | Path, **options: Any) -> Iterator[pq.ParquetFile]:
    """A Parquet file, wherever it lies, for reading; `options` are `pyarrow.parquet.ParquetFile`'s."""
    place = as_path(path)
    if not isinstance(place, ObjectPath):
        with pq.ParquetFile(place, **options) as file:
            yield file
        return
    with place.open("rb") as stream, _OnThisThread(stream, **options) as file:
        yield file


class _OnThisThread(pq.ParquetFile):
    """Reads a Python stream without Arrow's threads.

    They let go of the stream a moment after the read has returned, for which they need the interpreter. Where the
    process is ending by then, they abort it (apache/arrow#34314).
    """

    def __init__(self, stream: IO[bytes], **options: Any) -> None:
        super().__init__(stream, pre_buffer=False, **options)

    def read(self, *args: Any, **options: Any) -> pa.Table:
        return super().read(*args, **{**options, "use_threads": False})

    def read_row_group(self, *args: Any, **options: Any) -> pa.Table:
        return super().read_row_group(*args, **{**options, "use_threads": False})

    def read_row_groups(self, *args: Any, **options: Any) -> pa.Table:
        return super().read_row_groups(*args, **{**options, "use_threads": False})

    def iter_batches(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        return super().iter_batches(*args, **{**options, "use_threads": False})


def read_buffer(path: str | Path) -> pa.Buffer:
    """A file's bytes in Arrow's own memory, which its threads may let go of at any time (see `_OnThisThread`).

    Raises:
        FileNotFoundError: there is no such file.
    """
    place = as_path(path)
    if isinstance(place, ObjectPath):
        return place.read_buffer()
    with pa.OSFile(os.fspath(place)) as file:
        return file.read_buffer()


def read_table(path: str | Path, *, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """Reads a Parquet file and verifies its page checksums.

    Args:
        path: the file.
        columns: read only these.
        schema: cast to this contract; columns that an older writer lacked become null where the contract allows it.

    Raises:
        IntegrityError: the file is damaged or does not satisfy the contract.
        VtokError: there is no such file.
    """
    try:
        with open_parquet(path, page_checksum_verification=True) as file:
            table = file.read(columns=columns)
        if schema is None:
            return table
        if table.schema.equals(schema):  # a cast would import all of pyarrow's compute functions
            return table.replace_schema_metadata(schema.metadata)
        return _completed(table, schema).cast(schema)
    except FileNotFoundError:
        raise VtokError("no such file", at=str(path)) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            f"damaged Parquet file: {str(error).splitlines()[0]}",
            at=str(path),
            hint="delete the file and run the command that made it again; only this part is made anew",
        ) from error


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with nulls in the nullable columns of `schema` that it lacks."""
    for number, field in enumerate(schema):
        if field.nullable and field.name not in table.column_names:
            table = table.add_column(number, field, pa.nulls(table.num_rows, field.type))
    return table


def sha256_of(path: str | Path) -> str:
    """sha256 of a file's bytes, hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with as_path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sweep_temporaries(folder: str | Path) -> int:
    """Deletes the temporary files and folders that a killed run left in `folder`; returns how many.

    Only call it when no other writer can be at work in the folder.
    """
    leftovers = list(as_path(folder).glob(f"{TEMP_MARK}*"))
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return len(leftovers)


@contextmanager
def local_copy(path: str | Path) -> Iterator[Path]:
    """A local path with the same bytes: the file itself, or a copy of the object that is deleted afterwards.

    There is nothing at the local path either if there is no such object.

    Raises:
        VtokError: the temporary folder (TMPDIR) is full.
    """
    place = as_path(path)
    if not isinstance(place, ObjectPath):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="vtok-") as folder:
        copy = Path(folder) / place.name
        with contextlib.suppress(FileNotFoundError), place.open("rb") as source:
            try:
                with copy.open("wb") as target:
                    shutil.copyfileobj(source, target, _COPIED)
            except OSError as error:
                raise VtokError(
                    f"cannot copy {place} to a local disk: {error.strerror or error}",
                    at=folder,
                    hint="make room there, or set TMPDIR to a folder with room, then run the same command again",
                ) from error
        yield copy
