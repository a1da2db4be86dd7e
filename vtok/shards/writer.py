"""Writes shards whose bytes depend on their content alone, and reads the footer that says what is in them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from schemas.errors import IntegrityError
from schemas.shards import FOOTER_MEMBER
from vtok.files import atomic_file


class _HashingStream:
    """Passes bytes on and hashes them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._stream.write(data)


def write_shard(
    path: Path, samples: Iterable[tuple[str, dict[str, bytes]]], footer: dict[str, Any], *, point: str
) -> tuple[int, str]:
    """Writes one tar: the samples' members, then the footer.

    Args:
        path: the final name; it appears only when the shard is whole.
        samples: (clip_id, {extension: bytes}), in order; may fill `footer` while it is consumed.
        footer: JSON-compatible; written last.
        point: prefix of the crash points.

    Returns:
        Size in bytes and sha256.
    """
    with atomic_file(path, point=point) as stream:
        sink = _HashingStream(stream)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for clip, members in samples:
                for extension, data in members.items():
                    _add(tar, f"{clip}.{extension}", data)
            text = json.dumps(footer, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            _add(tar, FOOTER_MEMBER, text.encode())
    return sink.size, sink.digest.hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a member without clock, owner or host."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))


def read_footer(path: Path) -> dict[str, Any]:
    """The footer of a shard; reads the members' headers only.

    Raises:
        IntegrityError: the shard is truncated or damaged.
    """
    try:
        if path.stat().st_size % tarfile.RECORDSIZE:  # tars end on a whole record; tarfile reads on without
            raise IntegrityError("the shard is cut off", at=str(path), hint=_HINT)
        with tarfile.open(path, "r:") as tar:
            last = tar.getmembers()[-1]
            member = tar.extractfile(last) if last.name == FOOTER_MEMBER else None
            if member is None:
                raise IntegrityError("the shard has no footer: it is cut off", at=str(path), hint=_HINT)
            return dict(json.loads(member.read()))
    except (tarfile.TarError, OSError, ValueError, IndexError) as error:
        raise IntegrityError(f"the shard cannot be read: {error}", at=str(path), hint=_HINT) from error


_HINT = "delete it and _vtok.json, then run `vtok data shard` again; only this shard is made anew"
