"""A video file inside a tar (WebDataset shards of whole videos), found and opened without unpacking the tar to disk."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vtok.video.errors import VideoError
from vtok.video.media.sequence import Opened

VIDEOS = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif", ".m4v", ".mpg", ".mpeg")
TEXTS = (".txt", ".json", ".cls")
_BLOCK = 1 << 20
_LARGEST_TEXT = 1 << 20  # bytes; a caption is no larger
_RECORD = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A video in a tar, or a text that belongs to one.

    Attributes:
        name: of the member, readable in any case.
        offset: where its header begins.
        text: what it holds; None: it is a video.
        reject: (reason, detail) if it must not be used.
    """

    name: str
    offset: int
    text: bytes | None = None
    reject: tuple[str, str] | None = None


def scan_tar(path: Path) -> Iterator[Member]:
    """The videos and texts of a tar, in its order; only headers and texts are read.

    Raises:
        VideoError: vanished, unreadable or, after the members before the damage, corrupt.
    """
    count = 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                count += 1
                kind = PurePosixPath(member.name).suffix.lower()
                if kind in VIDEOS:
                    yield _video_member(member, size)
                elif kind in TEXTS and member.isreg() and member.size <= _LARGEST_TEXT:
                    text = tar.extractfile(member)
                    yield Member(_readable(member.name), member.offset, text.read() if text else b"")
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
            raise VideoError("unreadable", f"not a tar: {error}") from None
        raise VideoError("corrupt", f"the tar is damaged or cut off after {count} members") from None


def _video_member(member: tarfile.TarInfo, size: int) -> Member:
    name = _readable(member.name)
    reject: tuple[str, str] | None = None
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        reject = ("unsafe_path", "the member's name leaves the tar")
    elif not member.isreg():
        reject = (
            "unsafe_path",
            "the member is a link" if member.islnk() or member.issym() else "the member is no file",
        )
    elif name != member.name:
        reject = ("unreadable", "the member's name is not UTF-8: rename it")
    elif member.offset_data + member.size > size:
        reject = ("missing_frames", "the tar ends within the member")
    return Member(name, member.offset, None, reject)


def _readable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def open_member(path: Path, item: str) -> Iterator[Opened]:
    """Copies a member of the tar into memory, where decoders open it like a file; nothing is left when it is closed.

    Args:
        path: the tar.
        item: `name@offset`: the member's name, and where its header begins.

    Raises:
        VideoError: vanished, unreadable, changed.
    """
    name, _, offset = item.rpartition("@")
    if not offset.isdecimal():
        raise VideoError("changed", f"{item!r} names no member")
    memory = os.memfd_create("vtok-member")
    try:
        size = _copy(path, name, int(offset), memory)
        yield Opened(Path(f"/proc/{os.getpid()}/fd/{memory}"), size, None)
    finally:
        os.close(memory)


def _copy(path: Path, name: str, offset: int, memory: int) -> int:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                member = tar.next()
                data = tar.extractfile(member) if member is not None and member.name == name else None
                if member is None or data is None:
                    raise VideoError("changed", f"{name} is not where ingest saw it")
                left = member.size
                while block := data.read(min(left, _BLOCK)):
                    os.write(memory, block)
                    left -= len(block)
                if left:
                    raise VideoError("missing_frames", "the tar ends within the member")
                return int(member.size)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except (OSError, tarfile.TarError) as error:
        raise VideoError("unreadable", f"the tar cannot be read: {error}") from None
