"""A video file inside a tar (WebDataset shards of whole videos), found and opened without unpacking the tar to disk."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

from vtok.video.errors import VideoError
from vtok.video.extensions import EXTENSIONS
from vtok.video.media.sequence import Opened
from vtok.video.signatures import what_it_is

TEXTS = (".txt", ".json", ".cls")
_BLOCK = 1 << 20
_LARGEST_TEXT = 1 << 20  # bytes; a caption is no larger
_RECORD = tarfile.BLOCKSIZE
_ITEM = re.compile(r"(?P<name>.*)@(?P<offset>[0-9]+)(?:=(?P<target>[0-9]+))?", re.DOTALL)


class Member(NamedTuple):
    """A video in a tar, or a text that belongs to one.

    Attributes:
        name: of the member, readable in any case.
        offset: where its header begins.
        text: what it holds; None: it is a video.
        reject: (reason, detail) if it must not be used.
        target: of a hard link, where the header of the member with the data begins.
    """

    name: str
    offset: int
    text: bytes | None = None
    reject: tuple[str, str] | None = None
    target: int | None = None

    @property
    def item(self) -> str:
        """What `open_member` takes."""
        return f"{self.name}@{self.offset}" + ("" if self.target is None else f"={self.target}")


def scan_tar(path: Path, others: Counter[str] | None = None) -> Iterator[Member]:
    """The videos and texts of a tar, in its order; only headers and texts are read.

    Args:
        path: the tar.
        others: counts the members that are neither, by their endings.

    Raises:
        VideoError: vanished, unreadable or, after the members before the damage, corrupt.
    """
    count = 0
    files: dict[str, tarfile.TarInfo] = {}  # a hard link means one of those before it
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                count += 1
                data = files.get(posixpath.normpath(member.linkname)) if member.islnk() else member
                if data is not None and data.isreg():
                    files[posixpath.normpath(member.name)] = data
                kind = PurePosixPath(member.name).suffix.lower()
                if kind in EXTENSIONS:
                    yield _video_member(member, data, size)
                elif kind in TEXTS and data is not None and data.isreg() and data.size <= _LARGEST_TEXT:
                    if PurePosixPath(data.name).suffix.lower() in TEXTS:
                        text = tar.extractfile(data)
                        yield Member(_readable(member.name), member.offset, text.read() if text else b"")
                elif others is not None and not member.isdir():
                    others[kind] += 1
            end = tar.offset
        with path.open("rb") as stream:
            stream.seek(end)
            if stream.read(_RECORD) != bytes(_RECORD):
                raise VideoError("corrupt", f"the tar is damaged or cut off after {count} members")
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except OSError as error:
        raise VideoError("unreadable", error.strerror or str(error)) from None
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        if count == 0:
            raise VideoError("unreadable", f"not a tar: {what_it_is(path, 'tar') or error}") from None
        raise VideoError("corrupt", f"the tar is damaged or cut off after {count} members") from None


def _video_member(member: tarfile.TarInfo, data: tarfile.TarInfo | None, size: int) -> Member:
    """The member of a video; `data` is the member that holds its bytes, of a hard link another one."""
    name = _readable(member.name)
    reject: tuple[str, str] | None = None
    if _leaves(member.name) or (member.islnk() and _leaves(member.linkname)):
        reject = ("unsafe_path", "the member's name leaves the tar")
    elif data is None:
        target = _readable(member.linkname)
        reject = ("corrupt", f"the member is a hard link to {target}, which is not in the tar before it")
    elif not data.isreg():
        reject = ("unsafe_path", "the member is a link" if data.issym() else "the member is no file")
    elif name != member.name:
        reject = ("unreadable", "the member's name is not UTF-8: rename it")
    elif data.offset_data + _stored(data) > size:
        reject = ("missing_frames", "the tar ends within the member")
    return Member(name, member.offset, None, reject, data.offset if data is not None and data is not member else None)


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _stored(member: tarfile.TarInfo) -> int:
    """The bytes of a member in the tar; of a sparse one (tar -S) the holes are not there."""
    blocks = cast(list[tuple[int, int]] | None, member.sparse)  # typeshed takes it for a number
    return sum(size for _, size in blocks) if blocks else member.size


def _readable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def open_member(path: Path, item: str) -> Iterator[Opened]:
    """Copies a member of the tar into memory, where decoders open it like a file; nothing is left when it is closed.

    Args:
        path: the tar.
        item: `name@offset`: the member's name, and where its header begins; of a hard link `name@offset=target`, with
            the place of the member that holds its data.

    Raises:
        VideoError: vanished, unreadable, changed.
    """
    found = _ITEM.fullmatch(item)
    if found is None:
        raise VideoError("changed", f"{item!r} names no member")
    memory = os.memfd_create("vtok-member")
    try:
        size = _copy(path, found["name"], int(found["offset"]), found["target"], memory)
        yield Opened(Path(f"/proc/{os.getpid()}/fd/{memory}"), size, None)
    finally:
        os.close(memory)


def _copy(path: Path, name: str, offset: int, target: str | None, memory: int) -> int:
    changed = VideoError("changed", f"{name} is not where ingest saw it")
    try:
        with path.open("rb") as stream:
            if target is not None:
                stream.seek(offset)
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    link = tar.next()
                if link is None or not link.islnk() or link.name != name:
                    raise changed
                name, offset = link.linkname, int(target)
            stream.seek(offset)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                member = tar.next()
                if member is None or not member.isreg() or (member.name != name and target is None):
                    raise changed
                data = tar.extractfile(member)
                left = member.size
                while data is not None and (block := data.read(min(left, _BLOCK))):
                    os.write(memory, block)
                    left -= len(block)
                if left:
                    raise VideoError("missing_frames", "the tar ends within the member")
                return int(member.size)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except (OSError, tarfile.TarError) as error:
        raise VideoError("unreadable", f"the tar cannot be read: {error}") from None
