"""Writes shards whose bytes depend on their content alone, and reads the footer that says what is in them.

The footer must be where no reader looks for samples: some count every file in the tar, whatever its name. So it is the
comment in a pax header (POSIX: "ignored by pax") of the last entry, which is a folder and no file.
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from schemas.errors import IntegrityError
from schemas.shards import FOOTER_HEADER, FOOTER_MEMBER
from vtok.files import atomic_file

_BLOCK = 1 << 20
_TAIL = 64 << 10  # bytes of the end that usually hold the footer; a multiple of tar's block
_COMMENT = b" comment="


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
            _add_footer(tar, _seal(sink.digest.copy(), footer))
    return sink.size, sink.digest.hexdigest()


def _seal(before: Any, footer: dict[str, Any]) -> bytes:
    """The footer as JSON. `samples_sha256` covers all bytes before its own header: what the shard holds, whatever plan
    it belongs to. `sha256` covers them and the footer without these two keys."""
    samples = before.hexdigest()
    before.update(_json(footer))
    return _json({**footer, "samples_sha256": samples, "sha256": before.hexdigest()})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify_shard(path: Path) -> dict[str, Any]:
    """The footer of a shard, after checking every byte of the shard against it.

    Raises:
        IntegrityError: the shard is truncated or damaged.
    """
    left, footer = _find_footer(path)
    digest, end = hashlib.sha256(), io.BytesIO()
    with path.open("rb") as stream:
        while left:
            block = stream.read(min(left, _BLOCK))
            digest.update(block)
            left -= len(block)
        tail = stream.read()
    with tarfile.open(fileobj=end, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        _add_footer(tar, _seal(digest, _described(footer)))
    if tail.rstrip(b"\0") != end.getvalue().rstrip(b"\0"):
        raise IntegrityError("the shard's bytes are not those that were written", at=str(path), hint=_HINT)
    return _described(footer)


def _described(footer: dict[str, Any]) -> dict[str, Any]:
    """A footer without what sealing added."""
    return {key: value for key, value in footer.items() if key not in ("samples_sha256", "sha256")}


def samples_digest(path: Path) -> str:
    """sha256 of a shard's samples, from its footer; equal for equal clips, whatever plan the shard belongs to.

    Raises:
        IntegrityError: the shard is truncated or damaged.
    """
    return str(_find_footer(path)[1]["samples_sha256"])


def _add(tar: tarfile.TarFile, name: str, data: bytes, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> None:
    """Adds a member without clock, owner or host."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.type = len(data), 0, mode, kind
    tar.addfile(info, io.BytesIO(data))


def _add_footer(tar: tarfile.TarFile, text: bytes) -> None:
    """Adds the last entry and, before it, its pax header."""
    rest = len(_COMMENT) + len(text) + 1
    length = rest + len(str(rest))
    length = rest + len(str(length))  # the record's length counts its own digits
    _add(tar, FOOTER_HEADER, b"%d%s%s\n" % (length, _COMMENT, text), tarfile.XHDTYPE)
    _add(tar, FOOTER_MEMBER, b"", tarfile.DIRTYPE, 0o755)


def read_footer(path: Path) -> dict[str, Any]:
    """The footer of a shard; reads the end of the file only.

    Raises:
        IntegrityError: the shard is truncated or damaged.
    """
    return _described(_find_footer(path)[1])


def _find_footer(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the footer's pax header begins, and what it says.

    It is the last one that carries its name: what follows is JSON, without zeros, and one more block.
    """
    try:
        size = path.stat().st_size
        if not size or size % tarfile.RECORDSIZE:  # tars end on a whole record
            raise IntegrityError("the shard is cut off", at=str(path), hint=_HINT)
        name = FOOTER_HEADER.encode() + b"\0"
        with path.open("rb") as stream:
            for length in _tails(size):
                stream.seek(size - length)
                tail = stream.read(length)
                start = tail.rfind(name)
                while start >= 0 and start % tarfile.BLOCKSIZE:
                    start = tail.rfind(name, 0, start)
                if start >= 0:
                    break
            else:
                raise IntegrityError("the shard has no footer: it is cut off", at=str(path), hint=_HINT)
        header = tarfile.TarInfo.frombuf(tail[start : start + tarfile.BLOCKSIZE], "ascii", "strict")
        body = start + tarfile.BLOCKSIZE
        text = tail[body : body + header.size].partition(_COMMENT)[2]
        footer = dict(json.loads(text))
        if "samples_sha256" not in footer:
            raise ValueError("its footer does not say what it holds")
        return size - length + start, footer
    except (tarfile.TarError, OSError, ValueError) as error:
        raise IntegrityError(f"the shard cannot be read: {error}", at=str(path), hint=_HINT) from error


def _tails(size: int) -> Iterator[int]:
    """Lengths of the file's end to look at, in bytes: whole blocks, longer each time, at last all of it."""
    length = _TAIL
    while length < size:
        yield length
        length *= 8
    yield size


_HINT = "delete it and _vtok.json, then run `vtok data shard` again; only this shard is made anew"
