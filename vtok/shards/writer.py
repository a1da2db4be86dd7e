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

_BLOCK = 1 << 20


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

    def tell(self) -> int:
        return self.size


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
        with tarfile.open(fileobj=sink, mode="w:", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for clip, members in samples:
                for extension, data in members.items():
                    _add(tar, f"{clip}.{extension}", data)
            _add(tar, FOOTER_MEMBER, _seal(sink.digest.copy(), footer))
    return sink.size, sink.digest.hexdigest()


def _seal(before: Any, footer: dict[str, Any]) -> bytes:
    """The footer as JSON; its `sha256` covers all bytes before its own member and the footer without that key."""
    before.update(_json(footer))
    return _json({**footer, "sha256": before.hexdigest()})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify_shard(path: Path) -> dict[str, Any]:
    """The footer of a shard, after checking every byte of the shard against it.

    Raises:
        IntegrityError: the shard is truncated or damaged.
    """
    footer = read_footer(path)
    digest, member = hashlib.sha256(), io.BytesIO()
    with path.open("rb") as stream, tarfile.open(path, "r:") as tar:
        left = tar.getmembers()[-1].offset
        while left:
            block = stream.read(min(left, _BLOCK))
            digest.update(block)
            left -= len(block)
        tail = stream.read()
    with tarfile.open(fileobj=member, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, FOOTER_MEMBER, _seal(digest, footer))
    if tail.rstrip(b"\0") != member.getvalue().rstrip(b"\0"):
        raise IntegrityError("the shard's bytes are not those that were written", at=str(path), hint=_HINT)
    return footer


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
            footer = dict(json.loads(member.read()))
            footer.pop("sha256", None)
            return footer
    except (tarfile.TarError, OSError, ValueError, IndexError) as error:
        raise IntegrityError(f"the shard cannot be read: {error}", at=str(path), hint=_HINT) from error


_HINT = "delete it and _vtok.json, then run `vtok data shard` again; only this shard is made anew"
