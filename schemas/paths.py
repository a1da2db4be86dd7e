"""Where artefacts lie: in a local folder or below `s3://bucket/prefix` (`gs://` by the same road).

`as_path` turns a text into a path; an object store's path is a `pathlib.Path` that asks the store through pyarrow's own
S3 and GCS clients, so that code which only joins, lists, reads and deletes need not know where it is. Whatever hands a
path to the operating system fails with an error that says so, instead of making a local folder named `s3:`.

Settings come from the standard variables alone: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3), AWS_MAX_ATTEMPTS; GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

import fnmatch
import functools
import io
import os
import re
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PosixPath, PurePath
from typing import IO, Any

from schemas.errors import UsageError, VtokError

_STORE = re.compile(r"^(s3|gs):/+")
_BLOCK = 8 << 20  # bytes fetched by a request where a file is read in sequence
_MAX_ATTEMPTS = (
    8  # a request that is refused or lost is sent this often: about a minute, each wait up to twice the last
)


def as_path(text: str | PurePath) -> Path:
    """The path that a text names: local, or an `ObjectPath` for `s3://...` and `gs://...`.

    A `Path` made from such a text by others (a command line parser) has lost one of the slashes; it is understood too.

    Raises:
        UsageError: the text names an object store and no bucket.
    """
    if isinstance(text, ObjectPath):
        return text
    if not _STORE.match(str(text)):
        return Path(text)
    path = ObjectPath(str(text))
    if len(path.parts) < 2:
        raise UsageError("no bucket is named", at=str(text), hint="give s3://BUCKET/FOLDER")
    return path


def local_only(path: Path, doing: str, hint: str) -> Path:
    """The same path.

    Args:
        path: any path.
        doing: what needs a local folder, for the error.
        hint: what to do instead.

    Raises:
        UsageError: it lies in an object store.
    """
    if isinstance(path, ObjectPath):
        raise UsageError(f"{doing} needs a local folder", at=str(path), hint=hint)
    return path


NEEDS_LOCAL = "set `models` to a local folder: in the recipe, or models=FOLDER on the command line"
COPY_FIRST = "copy the run to a local disk (`aws s3 sync`) and name that folder"


@functools.cache
def _store(scheme: str) -> Any:
    """The client of a scheme, one a process."""
    from pyarrow import fs

    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=60))
    # The client's own 1 s to connect and 3 s without a byte are too few where machine or store are busy.
    settings: dict[str, Any] = {"connect_timeout": 10.0, "request_timeout": 60.0}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        kind, _, host = endpoint.rpartition("://")
        settings |= {"endpoint_override": host.rstrip("/"), "scheme": kind or "https"}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        settings["region"] = region
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", _MAX_ATTEMPTS))
    # A small file is put in one request, and a larger one in parts that the store joins when all are there.
    return fs.S3FileSystem(
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts), allow_delayed_open=True, **settings
    )


class ObjectPath(PosixPath):
    """A path in an object store: `s3://bucket/folder/name`.

    A folder exists where an object's name begins with it. Everything that reads or writes raises `VtokError` with what
    the store said after its own retries; a missing object is a `FileNotFoundError`, as on a disk.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __fspath__(self) -> str:
        raise UsageError("this works on local files only", at=str(self), hint=COPY_FIRST)

    @property
    def key(self) -> str:
        """`bucket/folder/name`, as pyarrow names it."""
        return "/".join(self.parts[1:])

    @property
    def _client(self) -> Any:
        return _store(self.parts[0].rstrip(":"))

    def _info(self) -> Any:
        with _translated(self):
            return self._client.get_file_info(self.key)

    def exists(self, **_: Any) -> bool:
        return self._info().type.name != "NotFound"

    def is_file(self, **_: Any) -> bool:
        return bool(self._info().is_file)

    def is_dir(self, **_: Any) -> bool:
        return self._info().type.name == "Directory"

    def is_symlink(self) -> bool:
        return False

    def resolve(self, strict: bool = False) -> ObjectPath:
        return self

    absolute = resolve

    def relative_to(self, *other: Any) -> Path:  # type: ignore[override]
        """What comes after a folder: a plain relative path."""
        return Path(*super().relative_to(*other).parts)

    def stat(self, **_: Any) -> os.stat_result:
        """Only the size is known.

        Raises:
            FileNotFoundError: there is no such object.
        """
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(2, "no such object", str(self))
        return os.stat_result((0, 0, 0, 0, 0, 0, info.size, 0, 0, 0))

    def iterdir(self) -> Generator[ObjectPath, None, None]:
        yield from self._below(recursive=False)

    def glob(self, pattern: str, **_: Any) -> Generator[ObjectPath, None, None]:
        """The names directly in this folder that match; no `**` and no subfolders."""
        yield from (path for path in self._below(recursive=False) if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str, **_: Any) -> Generator[ObjectPath, None, None]:
        yield from (path for path in self._below(recursive=True) if fnmatch.fnmatchcase(path.name, pattern))

    def _below(self, *, recursive: bool) -> Iterator[ObjectPath]:
        from pyarrow import fs

        with _translated(self):
            found = self._client.get_file_info(fs.FileSelector(self.key, allow_not_found=True, recursive=recursive))
        start = len(self.key) + 1
        for info in sorted(found, key=lambda info: info.path):
            yield self / info.path[start:]

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing: a folder is there as soon as something is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _translated(self):
                self._client.delete_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def open(self, mode: str = "r", buffering: int = -1, encoding: str | None = None, *_: Any) -> IO[Any]:  # type: ignore[override]
        """Reading only; writing goes through `vtok.files.atomic_file`. With `buffering` 0 every read is one request."""
        if mode not in ("r", "rt", "rb"):
            raise UsageError("objects are put whole, not written to", at=str(self))
        with _translated(self):
            raw = _Reading(self, self._client.open_input_file(self.key))
        if buffering == 0:
            return raw  # type: ignore[return-value]
        binary = io.BufferedReader(raw, _BLOCK)
        return binary if mode == "rb" else io.TextIOWrapper(binary, encoding=encoding or "utf-8")

    def read_bytes(self) -> bytes:
        with _translated(self), self._client.open_input_file(self.key) as stream:
            return bytes(stream.read())

    def read_buffer(self) -> Any:
        """`read_bytes` as a `pyarrow.Buffer`."""
        with _translated(self), self._client.open_input_file(self.key) as stream:
            return stream.read_buffer()

    def read_text(self, encoding: str | None = None, *_: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: Any) -> int:
        """Puts an object: all its bytes appear at once, under a name that never holds less.

        The store compares a checksum of every request's body; the size is compared here.

        Raises:
            VtokError: the store refused, or did not answer; nothing has changed under the name.
        """
        with ThreadPoolExecutor(1) as thread:  # Ctrl-C between two of its lines would leave a cut object
            thread.submit(self._put, data).result()
        if (size := self.stat().st_size) != len(data):
            raise VtokError(
                f"the store has {size} bytes of the {len(data)} that were put",
                at=str(self),
                hint="is another process writing here? Run the same command again",
            )
        return len(data)

    def _put(self, data: Any) -> None:
        with _translated(self), self._client.open_output_stream(self.key, metadata=_PLAIN) as stream:
            stream.write(data)


_PLAIN = {"Content-Type": "application/octet-stream"}


class _Reading(io.RawIOBase):
    """An object's bytes, fetched as they are asked for."""

    def __init__(self, path: ObjectPath, stream: Any) -> None:
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _translated(self._path):
            return int(self._stream.readinto(buffer))

    def readall(self) -> bytes:
        with _translated(self._path):
            return bytes(self._stream.read())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


_CAUSES = (
    ("NO_SUCH_BUCKET|does not exist.*bucket", "there is no such bucket", "make the bucket, or correct its name"),
    (
        "ACCESS_DENIED|HTTP status 403|FORBIDDEN|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|SIGNATURE|MISSING_AUTH"
        "|INVALID_CLIENT_TOKEN|EXPIRED_TOKEN|PERMISSION_DENIED|UNAUTHENTICATED",
        "access is denied",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to an account that may list, read, write and "
        "delete here",
    ),
    (
        "HTTP status 301|PERMANENT_REDIRECT|PermanentRedirect",
        "the bucket is in another region",
        "set AWS_REGION to the bucket's region",
    ),
    (
        "NETWORK_CONNECTION|curlCode",
        "the store cannot be reached",
        "check the network and AWS_ENDPOINT_URL, then run the same command again: finished parts are kept",
    ),
)
_BUSY = "the store kept refusing", "run the same command again later, or with fewer workers: finished parts are kept"


@contextmanager
def _translated(path: ObjectPath) -> Iterator[None]:
    """Turns what the client says into an error for users; a missing object stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(2, "no such object", str(path)) from None
    except OSError as error:
        said = " ".join(str(error).split())
        for pattern, what, hint in _CAUSES:
            if re.search(pattern, said):
                raise VtokError(f"{what}: {said}", at=str(path), hint=hint) from error
        raise VtokError(f"{_BUSY[0]}: {said}", at=str(path), hint=_BUSY[1]) from error
