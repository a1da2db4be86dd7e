"""One part of a token store laid out flat: any row is found by an offset and read by a few memory accesses.

A flat file is made of a verified part, in one pass, and checks itself: the head (what it was made of, where the rows
lie, the CRC-32C of each) has a checksum of its own that is compared when the file is opened, and a row is compared with
its CRC every time that it is read. A CRC-32 notices every change of up to 32 neighbouring bits, and any other with a
probability of 1 - 2^-32.

    head    magic, version, flags, rows, sha256 of the part and of what made it, offsets (rows + 1), CRCs (rows, each
            exclusive-or'ed with a hash of the row's number: no row is taken for another), CRC of all of this
    row     row number, grid, label, lengths; codes; audio codes; clip_id, view_id, caption, windowed_from; conditioning
            frames
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64, Integer, UInt8, UInt32

from schemas.errors import IntegrityError
from schemas.tokens import tokens_schema
from vtok.parquet import numbers_of
from vtok.tokens.order import mix
from vtok.tokens.parts import HINT, complete
from vtok.user_cache import private

VERSION = 3
_MAGIC = b"VTOKFLAT"
_HEAD = struct.Struct("<8sIIQ32s32s")  # magic, version, flags, rows, sha256 of the part and of what made it
_ROW = struct.Struct("<q12i")  # row, t, h, w, label, height, width; bytes of audio, texts, frames (-1: none)
ROW_HEAD = np.dtype([("row", "<i8"), ("grid", "<i4", 3), ("label", "<i4"), ("pixels", "<i4", 2), ("lengths", "<i4", 6)])
"""What a row begins with, to numpy; the lengths are those of audio codes, the texts and frames."""
_COLUMNS = ["grid_t", "grid_h", "grid_w", "height", "width", "label"]
_BLOBS = ["codes", "audio_codes", "clip_id", "view_id", "caption", "windowed_from"]
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

    @property
    def code(self) -> np.dtype[Any]:
        """The type of a code."""
        return np.dtype("<u4" if self.wide else "<u2")

    @property
    def audio_code(self) -> np.dtype[Any]:
        """The type of an audio code."""
        return np.dtype("<u4" if self.wide_audio else "<u2")


class FlatRow(NamedTuple):
    """One row.

    Attributes:
        row: its number in the part.
        grid: (t, h, w).
        codes: its codes in raster order, little-endian.
        code: their type.
        label: class; -1: none.
        clip_id, view_id, caption: its names and text.
        windowed_from: the longer encoding that its codes were cut out of; none: they are the encoding of the row alone.
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
    windowed_from: str | None
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
    schema = tokens_schema(65_537 if flags.wide else 1, 65_537 if flags.wide_audio else 1)
    lengths: list[int] = []
    crcs: list[int] = []
    for group in range(part.num_row_groups):
        try:
            records = _records(part, group, len(crcs), flags, schema)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            what = f"damaged row group {group}: {str(error).splitlines()[0]}"
            raise IntegrityError(what, at=str(source.path), hint=HINT) from error
        stream.write(b"".join(records))
        lengths += map(len, records)
        crcs += map(google_crc32c.value, records)
    bounds = offset + np.cumsum([0, *lengths], dtype="<i8")
    head += bounds.tobytes() + (np.array(crcs, "<u4") ^ _masks(rows)).tobytes()
    stream.seek(0)
    stream.write(head + struct.pack("<I", google_crc32c.value(head)))


def _records(part: pq.ParquetFile, group: int, first: int, flags: Flags, schema: pa.Schema) -> list[bytes]:
    """The rows of a row group as they lie in the file; nothing is made a Python object that stays bytes."""
    columns = [*_COLUMNS, *_BLOBS, *(["cond_frames"] if flags.frames else [])]
    table = complete(part.read_row_group(group, columns=columns), schema, columns)
    if not table.num_rows:
        return []
    table.validate(full=True)
    heads = np.zeros(table.num_rows, ROW_HEAD)
    heads["row"] = np.arange(first, first + table.num_rows)
    for axis in range(3):
        heads["grid"][:, axis] = numbers_of(table[f"grid_{'thw'[axis]}"])
    labels = table["label"].combine_chunks()
    known = np.frombuffer(labels.buffers()[1], "<i4", len(labels), 4 * labels.offset)
    heads["label"] = np.where(_valid(labels), known, _NONE)
    heads["pixels"] = np.stack([numbers_of(table["height"]), numbers_of(table["width"])], axis=1)
    codes, sizes = _slices(table["codes"])
    if (sizes != heads["grid"].prod(axis=1) * flags.code.itemsize).any():
        raise ValueError("codes that do not fill their grid")
    heads["lengths"] = _NONE
    pieces = [codes]
    for number, name in enumerate(columns[len(_COLUMNS) + 1 :]):
        piece, heads["lengths"][:, number] = _slices(table[name])
        pieces.append(piece)
    data, width = heads.tobytes(), ROW_HEAD.itemsize
    starts = range(0, len(data), width)
    rows = map(b"".join, zip((data[at : at + width] for at in starts), *pieces, strict=True))
    return [row + bytes(-len(row) % 8) for row in rows]


def _slices(column: pa.ChunkedArray) -> tuple[list[bytes], Int64[np.ndarray, " n"]]:
    """The bytes of each value of a column of lists or texts, and how many they are; -1: there is no value."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        values = numbers_of(array.values)
        data, bounds = values.tobytes(), numbers_of(array.offsets).astype(np.int64) * values.itemsize
    else:
        _, offsets, content = array.buffers()
        bounds = np.frombuffer(offsets, "<i4", len(array) + 1, 4 * array.offset).astype(np.int64)
        data = b"" if content is None else content.to_pybytes()
    lengths = np.where(_valid(array), np.diff(bounds), _NONE)
    ends = bounds[:-1] + np.maximum(lengths, 0)
    return [data[at:end] for at, end in zip(bounds[:-1].tolist(), ends.tolist(), strict=True)], lengths


def _valid(array: pa.Array) -> Bool[np.ndarray, " n"]:
    """Which values are there; Arrow's own answer would import all of its compute functions first."""
    bits = array.buffers()[0]
    if bits is None:
        return np.ones(len(array), np.bool_)
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return unpacked[array.offset : array.offset + len(array)].astype(np.bool_)


def _masks(rows: int) -> UInt32[np.ndarray, " n"]:
    """A hash of each row's number."""
    return (mix(np.arange(1, rows + 1, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32)


class Damaged(Exception):
    """The file is not the one that was written, or was made of something else. Whoever has the part makes it anew."""


class FlatFile:
    """An open flat file.

    Args:
        path: where.
        source: the part that it must have been made of.
        flags: what it must hold.
        verify: off: nothing is compared.

    Attributes:
        rows: how many it has.
        map: its bytes.
        bounds: where each row begins in them; the last one, where the last row ends.
        crcs: the CRC-32C of each row.

    Raises:
        Damaged: it is another file, or its head is damaged.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path, source: PartFile, flags: Flags, *, verify: bool = True) -> None:
        with path.open("rb") as stream:
            if not private(os.fstat(stream.fileno())):
                raise Damaged("of somebody else")
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
            self.map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        rest = self.map[_HEAD.size : _HEAD.size + table]
        if verify and google_crc32c.value(head + rest[:-4]) != int.from_bytes(rest[-4:], "little"):
            raise Damaged("the head")
        self.rows = int(rows)
        split = 8 * (self.rows + 1)
        self.bounds = memoryview(rest)[:split].cast("q")
        masked = np.frombuffer(rest, "<u4", self.rows, split)
        self.crcs = memoryview(np.bitwise_xor(masked, _masks(self.rows)))
        if verify and self.bounds[-1] != size:
            raise Damaged("cut off")


def flat_row(record: bytes, flags: Flags) -> FlatRow:
    """A row from its bytes."""
    own, t, h, w, label, height, width, *lengths = _ROW.unpack_from(record)
    at = _ROW.size + t * h * w * flags.code.itemsize
    codes = record[_ROW.size : at]
    pieces: list[Any] = []
    for length in lengths:
        pieces.append(record[at : at + length] if length >= 0 else None)
        at += max(0, length)
    audio, clip_id, view_id, caption, windowed, frames = pieces
    return FlatRow(
        own,
        (t, h, w),
        codes,
        flags.code,
        label,
        clip_id.decode(),
        view_id.decode(),
        None if caption is None else caption.decode(),
        None if windowed is None else windowed.decode(),
        None if audio is None else np.frombuffer(audio, flags.audio_code),
        None if frames is None else np.frombuffer(frames, np.uint8).reshape(-1, height, width, 3),
    )
