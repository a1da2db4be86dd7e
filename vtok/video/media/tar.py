"""A video file inside a tar (WebDataset shards of whole videos), opened without unpacking the tar to disk."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtok.video.errors import VideoError
from vtok.video.media.sequence import Opened

_BLOCK = 1 << 20


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
