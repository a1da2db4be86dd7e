"""One shard on disk: its samples by number, read by offset, and only if they are the bytes that were written.

Before the first use of a shard the file is read through once: its sha256 is compared with the index of the artefact,
and over the same bytes the byte range and the CRC-32C of every sample are noted. Every sample that is read later is
compared with its CRC. So a clip reaches a batch only if its bytes are those that the sha256 was taken over: damage from
before the verification is always noticed, damage to a sample from after it with a probability of 1 - 2^-32, even where
neither size nor times of the file tell. (What was read once and then changes in memory is beyond this.)

With `verify="node"` what was noted is kept as a stamp in the user's cache folder, and the other processes of the node
take it from there instead of reading the whole file again. A stamp holds for one file (path, device, inode, size, times
of change), one sha256 and one boot of one machine; a damaged one, and one that is not the user's own, is ignored
(vtok/user_cache.py). The folder may be deleted at any time, and a stamp that nobody has used for a month is. Of an
object in a store only name and size are known: its samples are held against their CRCs like all others, but what was
exchanged after the verification and is no sample (a footer) shows only when the file is verified again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import google_crc32c
import numpy as np
from jaxtyping import Int64

from schemas.config.base import fingerprint
from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.shards import FOOTER_HEADER, FOOTER_MEMBER
from vtok.files import atomic_file, missing_part
from vtok.shards.ranges import open_ranges
from vtok.user_cache import private, user_cache

Verify = Literal["node", "always", "off"]
"""`node`: once per file and node. `always`: once per file and process, no stamps. `off`: nothing is checked."""

_STAMP_VERSION = 1
_DAY = 86400.0  # seconds
_KEPT_DAYS = 30
_BLOCK = 512
_BUFFER = 1 << 17
_SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # WebDataset's rule: the extension starts at the name's first dot
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset skips such names
_FOOTER = (FOOTER_HEADER, FOOTER_MEMBER)
_HINT = "delete it and _vtok.json, then run the command that made it again; only this part is made anew"


class Proof(NamedTuple):
    """What is known of a shard file after it was read through.

    Attributes:
        identity: device, inode, size and times of change of the file.
        bounds: offsets of the samples, and behind the last one where it ends.
        crcs: CRC-32C of every sample's bytes; none if the file was not verified.
    """

    identity: tuple[int, ...]
    bounds: Int64[np.ndarray, " n+1"]
    crcs: Int64[np.ndarray, " n"] | None


class ShardFile:
    """An open shard.

    Args:
        path: the tar.
        sha256: of the whole file, hex, from the artefact's index.
        rows: samples in it, from the index.
        verify: how often the file is verified.
        proof: of an earlier use in this process; it is trusted if the file is still the same.

    Raises:
        VtokError: there is no such file.
        IntegrityError: it is not the one that was written.
        UsageError: there is no such way to verify.
    """

    def __init__(self, path: Path, sha256: str, rows: int, *, verify: Verify, proof: Proof | None = None) -> None:
        if verify not in get_args(Verify):
            raise UsageError(f"verify is one of {', '.join(get_args(Verify))}, not {verify!r}")
        self.path = path
        try:
            self._ranges = open_ranges(path)
        except OSError as error:
            raise missing_part(path, error, "folder of the shards") from None
        with self._ranges.stream(_BUFFER) as stream:
            if proof is None or proof.identity != _identity(stream):
                proof = _prove(stream, path, sha256, verify)
        if len(proof.bounds) != rows + 1:
            raise IntegrityError(
                f"{len(proof.bounds) - 1} samples where the index has {rows}", at=str(path), hint=_HINT
            )
        self.proof = proof

    def close(self) -> None:
        """Closes the file."""
        self._ranges.close()

    def sample(self, number: int) -> dict[str, Any]:
        """The members of a sample as bytes by extension, and its name under `__key__`, as WebDataset has them.

        Raises:
            IntegrityError: the bytes are not those that were verified, or (unverified) no sample.
        """
        start, end = (int(offset) for offset in self.proof.bounds[number : number + 2])
        try:
            data = self._ranges.read(start, end - start)
            crcs = self.proof.crcs
            if len(data) < end - start or (crcs is not None and google_crc32c.value(data) != crcs[number]):
                raise IntegrityError(
                    "the file was altered after it had been verified", at=f"{self.path}: sample {number}", hint=_HINT
                )
            return _members(data)
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"a sample cannot be read: {error}", at=f"{self.path}: sample {number}", hint=_HINT
            ) from error


def cache_folder() -> Path:
    """Where the stamps are."""
    return user_cache("verified")


def _prove(stream: IO[bytes], path: Path, sha256: str, verify: Verify) -> Proof:
    if verify == "off":
        return _read_through(stream, path, None)
    if verify == "always":
        return _read_through(stream, path, sha256)
    stamp = _stamp_path(path)
    proof = _read_stamp(stamp, stream, sha256)
    if proof is None:
        with _alone(stream):
            proof = _read_stamp(stamp, stream, sha256)  # another process may have made it while this one waited
            if proof is None:
                proof = _read_through(stream, path, sha256)
                if proof.identity == _identity(stream):
                    _write_stamp(stamp, proof, sha256)
    return proof


def _read_through(stream: IO[bytes], path: Path, sha256: str | None) -> Proof:
    """Reads a file from start to end; without a sha256 only its headers, and nothing is compared."""
    identity = _identity(stream)
    digest = hashlib.sha256()
    bounds: list[int] = []
    crcs: list[int] = []
    key, end, offset = None, 0, 0
    stream.seek(0)
    try:
        while (block := stream.read(_BLOCK)).strip(b"\0"):
            name, size = _header(block)
            padded = size + -size % _BLOCK
            offset += _BLOCK + padded
            if offset > identity[2]:
                raise ValueError("a member ends behind the end of the file")
            if sha256 is None:
                stream.seek(padded, os.SEEK_CUR)
                data = b""
            else:
                data = stream.read(padded)
                digest.update(block)
                digest.update(data)
            match = None if _META.match(name) else _SAMPLE.fullmatch(name)
            if match is None:
                continue
            if match[1] != key:
                key = match[1]
                bounds.append(offset - padded - _BLOCK)
                crcs.append(0)
            crcs[-1] = google_crc32c.extend(google_crc32c.extend(crcs[-1], block), data)
            end = offset
    except ValueError as error:
        raise IntegrityError(f"the file is no shard any more: {error}", at=str(path), hint=_HINT) from None
    while sha256 is not None and block:
        digest.update(block)
        block = stream.read(_BUFFER)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise IntegrityError(
            "the file is not the one that was written: its sha256 differs from the index", at=str(path), hint=_HINT
        )
    return Proof(identity, np.array([*bounds, end], np.int64), None if sha256 is None else np.array(crcs, np.int64))


def _header(block: bytes) -> tuple[str, int]:
    """Name and size of a member (POSIX ustar, https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html).

    Raises:
        ValueError: this is the header of no regular file, and none of the footer's.
    """
    if len(block) < _BLOCK or block[257:262] != b"ustar":
        raise ValueError("a header that is none of a tar's")
    name, prefix = (
        field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape") for field in (block[:100], block[345:500])
    )
    if block[156:157] not in (b"0", b"\0") and name not in _FOOTER:
        raise ValueError("a header that is none of a regular file")
    return f"{prefix}/{name}" if prefix else name, int(block[124:136].split(b"\0", 1)[0], 8)


def _members(data: bytes) -> dict[str, Any]:
    sample: dict[str, Any] = {}
    offset = 0
    while offset < len(data):
        name, size = _header(data[offset : offset + _BLOCK])
        offset += _BLOCK
        match = None if _META.match(name) else _SAMPLE.fullmatch(name)
        if match is not None:
            sample["__key__"] = match[1]
            sample[match[2].lower()] = data[offset : offset + size]
        offset += size + -size % _BLOCK
    return sample


def _identity(stream: IO[bytes]) -> tuple[int, ...]:
    try:
        facts = os.fstat(stream.fileno())
    except io.UnsupportedOperation:  # in an object store
        here, size = stream.tell(), stream.seek(0, os.SEEK_END)
        stream.seek(here)
        return 0, 0, size, 0, 0
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


@contextmanager
def _alone(stream: IO[bytes]) -> Iterator[None]:
    """Waits until no other process of the node verifies this file. Without locks (some network disks) all verify it."""
    locked = False
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX)
        locked = True
    try:
        yield
    finally:
        if locked:
            fcntl.flock(stream, fcntl.LOCK_UN)


def _stamp_path(path: Path) -> Path:
    """One stamp a file and machine; a home may be shared by several."""
    name = hashlib.sha256(f"{platform.node()}\0{path.resolve()}".encode("utf-8", "surrogateescape"))
    return cache_folder() / f"{name.hexdigest()[:32]}.json"


def _boot() -> str:
    """Names the present boot of this machine; empty where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _read_stamp(stamp: Path, stream: IO[bytes], sha256: str) -> Proof | None:
    """The proof that a stamp holds, if it is one for this very file."""
    try:
        with stamp.open("rb") as file:
            if not private(os.fstat(file.fileno())):
                return None
            found = json.loads(file.read())
        seal = found.pop("seal")
        facts = {name: found[name] for name in ("version", "boot", "sha256", "identity")}
        proof = Proof(tuple(found["identity"]), np.array(found["bounds"], np.int64), np.array(found["crcs"], np.int64))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    identity = _identity(stream)
    wanted = {"version": _STAMP_VERSION, "boot": _boot(), "sha256": sha256, "identity": list(identity)}
    if facts != wanted or seal != fingerprint(found):
        return None
    with suppress(OSError):
        if stamp.stat().st_mtime < time.time() - _DAY:
            os.utime(stamp)  # it is still of use
    return proof


def _write_stamp(stamp: Path, proof: Proof, sha256: str) -> None:
    """Keeps a proof for the other processes; where the cache cannot be written to, each verifies for itself."""
    if proof.crcs is None:
        return
    found = {
        "version": _STAMP_VERSION,
        "boot": _boot(),
        "sha256": sha256,
        "identity": list(proof.identity),
        "bounds": proof.bounds.tolist(),
        "crcs": proof.crcs.tolist(),
    }
    with suppress(VtokError, OSError):
        stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(stamp) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps({**found, "seal": fingerprint(found)}, separators=(",", ":")).encode())
        _prune(stamp.parent)


@functools.cache
def _prune(folder: Path) -> None:
    """Deletes, once a process, what has not been used for a month: stamps of shards that are gone, and leftovers."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.stat().st_mtime < time.time() - _KEPT_DAYS * _DAY:
                Path(entry.path).unlink(missing_ok=True)
