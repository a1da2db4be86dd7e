"""One part of a token store laid out flat: any row is found by an offset and read by a few memory accesses.

A flat file is made of a verified part, in one pass, and checks itself: the head (what it was made of, where the rows
lie, the CRC-32C of each) has a checksum of its own that is compared when the file is opened, and a row is compared with
its CRC every time that it is read. A CRC-32 notices every change of up to 32 neighbouring bits, and any other with a
probability of 1 - 2^-32.

    head    magic, version, flags, rows, sha256 of the part, offsets (rows + 1), CRCs (rows), CRC of all of this
    row     row number, grid, label, lengths; codes; audio codes; clip_id, view_id, caption; conditioning frames
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer, UInt8

from schemas.errors import IntegrityError
from schemas.tokens import tokens_schema
from vtok.tokens.parts import HINT, arrays_of, complete

VERSION = 1
_MAGIC = b"VTOKFLAT"
_HEAD = struct.Struct("<8sIIQ32s32s")  # magic, version, flags, rows, sha256 of the part and of what made it
_ROW = struct.Struct("<q11i")  # row, t, h, w, label, height, width; bytes of audio, texts, frames (-1: none)
_COLUMNS = ["clip_id", "view_id", "codes", "grid_t", "grid_h", "grid_w", "height", "width", "label", "caption"]
_NONE = -1


class PartFile(NamedTuple):
    """A part of a store: what the store's card and index say of it.

    Attributes:
        path: where it is.
        sha256: of its bytes, hex.
        rows: how many it has.
        tokenizer, codebook_size: what made its codes.
        unchecked: whether its pages may lack checksums.
    """

    path: Path
    sha256: str
    rows: int
    tokenizer: str
    codebook_size: int
    unchecked: bool = False

    @property
    def origin(self) -> bytes:
        """What the part is made of and by, in 64 bytes."""
        maker = hashlib.sha256(f"{self.tokenizer}/{self.codebook_size}".encode())
        return bytes.fromhex(self.sha256) + maker.digest()


class Flags(NamedTuple):
    """What a flat file holds.

    Attributes:
        verified: it was made of verified bytes.
        frames: with the conditioning frames.
        wide: codes are uint32, not uint16.
        wide_audio: audio codes are.
    """

    verified: bool
    frames: bool
    wide: bool
    wide_audio: bool

    @property
    def number(self) -> int:
        """As one number."""
        return sum(1 << bit for bit, value in enumerate(self) if value)


class FlatRow(NamedTuple):
    """One row.

    Attributes:
        row: its number in the part.
        grid: (t, h, w).
        codes: its codes in raster order, little-endian.
        code: their type.
        label: class; -1: none.
        clip_id, view_id, caption: its names and text.
        audio_codes: none where there are none.
        cond_frames_thwc: the first pixel frames; none where there are none.
    """

    row: int
    grid: tuple[int, int, int]
    codes: bytes
    code: np.dtype[Any]
    label: int
    clip_id: str
    view_id: str
    caption: str | None
    audio_codes: Integer[np.ndarray, " n"] | None
    cond_frames_thwc: UInt8[np.ndarray, "n height width 3"] | None

    @property
    def codes_thw(self) -> Integer[np.ndarray, "t h w"]:
        """Its codes."""
        return np.frombuffer(self.codes, self.code).reshape(self.grid)


def write_flat(stream: IO[bytes], source: PartFile, part: pq.ParquetFile, flags: Flags) -> None:
    """Lays out a part.

    Args:
        stream: an empty file, open for writing.
        source: which part.
        part: its contents.
        flags: what the file is to hold.

    Raises:
        IntegrityError: the part cannot be read.
    """
    rows = part.metadata.num_rows
    head = _HEAD.pack(_MAGIC, VERSION, flags.number, rows, source.origin[:32], source.origin[32:])
    offset = len(head) + 8 * (rows + 1) + 4 * rows + 4
    stream.seek(offset)
    bounds, crcs = [offset], []
    for group in range(part.num_row_groups):
        try:
            rows_of_group = _rows(part, group, len(crcs), flags)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            what = f"damaged row group {group}: {str(error).splitlines()[0]}"
            raise IntegrityError(what, at=str(source.path), hint=HINT) from error
        for data in rows_of_group:
            stream.write(data)
            bounds.append(bounds[-1] + len(data))
            crcs.append(google_crc32c.value(data))
    head += np.array(bounds, "<i8").tobytes() + np.array(crcs, "<u4").tobytes()
    stream.seek(0)
    stream.write(head + struct.pack("<I", google_crc32c.value(head)))


def _rows(part: pq.ParquetFile, group: int, first: int, flags: Flags) -> list[bytes]:
    columns = [*_COLUMNS, "audio_codes", *(["cond_frames"] if flags.frames else [])]
    schema = tokens_schema(65_537 if flags.wide else 1, 65_537 if flags.wide_audio else 1)
    table = complete(part.read_row_group(group, columns=columns), schema, columns)
    codes, audio = arrays_of(table, "codes"), arrays_of(table, "audio_codes")
    plain = table.drop_columns(["codes", "audio_codes"]).to_pylist()
    out = []
    for number, row in enumerate(plain):
        blobs = [
            codes[number].tobytes(),
            None if audio[number] is None else audio[number].tobytes(),
            *(None if row[name] is None else row[name].encode() for name in ("clip_id", "view_id", "caption")),
            row.get("cond_frames"),
        ]
        label = _NONE if row["label"] is None else row["label"]
        shape = (row["grid_t"], row["grid_h"], row["grid_w"], label, row["height"], row["width"])
        lengths = [_NONE if blob is None else len(blob) for blob in blobs]
        data = _ROW.pack(first + number, *shape, *lengths[1:]) + b"".join(blob for blob in blobs if blob)
        out.append(data + bytes(-len(data) % 8))
    return out


class Damaged(Exception):
    """The file is not the one that was written, or was made of something else. Whoever has the part makes it anew."""


class FlatFile:
    """An open flat file.

    Args:
        path: where.
        source: the part that it must have been made of.
        flags: what it must hold.
        verify: off: nothing is compared.

    Raises:
        Damaged: it is another file, or its head is damaged.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path, source: PartFile, flags: Flags, *, verify: bool = True) -> None:
        self._flags, self._verify = flags, verify
        self._code = np.dtype("<u4" if flags.wide else "<u2")
        self._audio = np.dtype("<u4" if flags.wide_audio else "<u2")
        with path.open("rb") as stream:
            head = stream.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise Damaged("cut off")
            magic, version, number, rows, *origin = _HEAD.unpack(head)
            if (magic, version, number, b"".join(origin)) != (_MAGIC, VERSION, flags.number, source.origin):
                raise Damaged("made of something else")
            stream.seek(0, 2)
            size = stream.tell()
            table = 12 * rows + 12
            if size < _HEAD.size + table:
                raise Damaged("cut off")
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        rest = self._map[_HEAD.size : _HEAD.size + table]
        if verify and google_crc32c.value(head + rest[:-4]) != int.from_bytes(rest[-4:], "little"):
            raise Damaged("the head")
        self.rows = int(rows)
        split = 8 * (self.rows + 1)
        self._bounds = memoryview(rest)[:split].cast("q")
        self._crcs = memoryview(rest)[split:-4].cast("I")
        if verify and self._bounds[-1] != size:
            raise Damaged("cut off")

    def row(self, number: int) -> FlatRow:
        """One row.

        Raises:
            Damaged: it is not the one that was written.
        """
        data = self._map[self._bounds[number] : self._bounds[number + 1]]
        if self._verify and google_crc32c.value(data) != self._crcs[number]:
            raise Damaged(f"row {number}")
        own, t, h, w, label, height, width, *lengths = _ROW.unpack_from(data)
        if self._verify and own != number:
            raise Damaged(f"row {number} is row {own}")
        at = _ROW.size + t * h * w * self._code.itemsize
        codes = data[_ROW.size : at]
        audio_bytes, id_bytes, view_bytes, caption_bytes, frame_bytes = lengths
        audio: Any = None
        if audio_bytes >= 0:
            audio = np.frombuffer(data, self._audio, audio_bytes // self._audio.itemsize, at)
            at += audio_bytes
        clip_id = data[at : at + id_bytes].decode()
        at += id_bytes
        view_id = data[at : at + view_bytes].decode()
        at += view_bytes
        caption = None
        if caption_bytes >= 0:
            caption = data[at : at + caption_bytes].decode()
            at += caption_bytes
        frames: Any = None
        if frame_bytes >= 0:
            frames = np.frombuffer(data, np.uint8, frame_bytes, at).reshape(-1, height, width, 3)
        return FlatRow(own, (t, h, w), codes, self._code, label, clip_id, view_id, caption, audio, frames)
