"""Videos in TFRecord files as BAIR has them: a record a video, its frames as raw bytes.

A record is an 8-byte length, the masked CRC-32C of these 8 bytes, the data, the masked CRC-32C of the data
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). The data is a tf.train.Example with
`{i}/{view}/encoded` (uint8 64x64x3, in spite of its name not encoded), `{i}/action` and `{i}/endeffector_pos`.

`item` is `number@offset:view`: the place of the record in its file, where it begins, and which camera. Opening a record
maps it into memory and looks at its names only; `digest` is what reads it whole and checks its CRC.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from vtok.video.errors import Reason, VideoError
from vtok.video.media.example import bytes_of, floats_of, read_example
from vtok.video.media.sequence import FrameSequence, Opened, hash_bytes, sequence_facts

VIEWS = ("image_aux1", "image_main")
"""The cameras: names of a record's frames."""
SIGNALS = {"actions": "action", "endeffector_pos": "endeffector_pos"}
"""What else a record has for every frame: a signal's name here, and there."""

_SIDE = 64
_LENGTH = struct.Struct("<QI")  # the length of the data, and the masked CRC of these 8 bytes
_CRC = struct.Struct("<I")
_BLOCK = 1 << 20


class Record(NamedTuple):
    """Where a record lies.

    Attributes:
        number: its place in the file, from 0.
        offset: where it begins, bytes.
        reject: (reason, detail) if it cannot be read, and with it the rest of the file.
    """

    number: int
    offset: int
    reject: tuple[Reason, str] | None = None


def walk_records(path: Path) -> Iterator[Record]:
    """The records of a file, found by their lengths; their data is not read.

    A damaged length or the file's early end is the last record's `reject`: what follows cannot be found.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            size, offset, number = os.fstat(stream.fileno()).st_size, 0, 0
            if not size:
                yield Record(0, 0, ("empty", "0 bytes"))
            while offset < size:
                try:
                    _, end = _span(stream, offset, size)
                except VideoError as error:
                    yield Record(number, offset, (error.reason, error.detail))
                    return
                yield Record(number, offset)
                offset, number = end, number + 1
    except OSError as error:
        yield Record(0, 0, ("unreadable", f"the file cannot be read: {error.strerror}"))


def _span(stream: IO[bytes], offset: int, size: int) -> tuple[int, int]:
    """Length of the data of the record that begins at an offset, and where the record ends.

    Raises:
        VideoError: corrupt or missing_frames.
    """
    stream.seek(offset)
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise VideoError("missing_frames", "the file ends within the record's length")
    length, crc = _LENGTH.unpack(header)
    if masked_crc(header[:8]) != crc:
        raise VideoError("corrupt", "the record's length is damaged: nothing after it can be found")
    end = offset + _LENGTH.size + length + _CRC.size
    if end > size:
        raise VideoError("missing_frames", f"the file ends {end - size} bytes before the record does")
    return length, end


def masked_crc(data: bytes | memoryview) -> int:
    """CRC-32C, rotated right by 15 bits and moved, as TFRecord stores it."""
    crc = 0
    for start in range(0, len(data), _BLOCK):
        crc = google_crc32c.extend(crc, bytes(data[start : start + _BLOCK]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def open_record(path: Path, item: str, fps: float) -> Iterator[Opened]:
    """Opens a record.

    Args:
        path: the file.
        item: `number@offset:view`.
        fps: frames per second, which the file does not say.

    Raises:
        VideoError: vanished, unreadable, changed, corrupt, no_frames, missing_frames.
    """
    found = re.fullmatch(r"\d+@(\d+):(\w+)", item)
    if found is None:
        raise VideoError("changed", f"no record is called {item}")
    data, crc = _map(path, int(found[1]))
    try:
        features = read_example(data)
        frames = _frames(features, found[2])
        signals = {name: signal for name, key in SIGNALS.items() if (signal := _signal(features, key, len(frames)))}
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise VideoError("corrupt", f"the record is no tf.train.Example: {error}") from None

    def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
        return np.frombuffer(frames[index], np.uint8).reshape(_SIDE, _SIDE, 3)

    def digest() -> str:
        if masked_crc(data) != crc:
            raise VideoError("corrupt", "the record's data does not match its checksum")
        return hash_bytes(data)

    facts = sequence_facts(codec="rawvideo", fps=fps, height=_SIDE, width=_SIDE, frames=len(frames))
    arrays = {name: np.stack(signal) for name, signal in signals.items()}
    yield Opened(path, len(data), FrameSequence(facts, len(data), read, digest, arrays))


def _map(path: Path, offset: int) -> tuple[memoryview, int]:
    """The data of a record, mapped into memory until nobody refers to it, and its masked CRC."""
    try:
        with path.open("rb", buffering=0) as stream:
            length, end = _span(stream, offset, os.fstat(stream.fileno()).st_size)
            begin = offset - offset % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(stream.fileno(), end - begin, offset=begin, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except (OSError, ValueError, OverflowError) as error:
        raise VideoError("unreadable", f"the file cannot be read: {error}") from None
    start = offset - begin + _LENGTH.size
    data = memoryview(mapped)[start : start + length]
    return data, int(_CRC.unpack(mapped[start + length : start + length + _CRC.size])[0])


def _frames(features: dict[str, memoryview], view: str) -> list[memoryview]:
    count = sum(bool(re.fullmatch(rf"\d+/{re.escape(view)}/encoded", name)) for name in features)
    if not count:
        raise VideoError("no_frames", f"the record has no frames of {view}")
    frames = []
    for i in range(count):
        values = bytes_of(features.get(f"{i}/{view}/encoded", memoryview(b"")))
        if len(values) != 1:
            raise VideoError("missing_frames", f"frame {i} of {view} is not in the record")
        if len(values[0]) != _SIDE * _SIDE * 3:
            raise VideoError("corrupt", f"frame {i} has {len(values[0])} bytes, 64x64x3 are {_SIDE * _SIDE * 3}")
        frames.append(values[0])
    return frames


def _signal(features: dict[str, memoryview], key: str, frames: int) -> list[np.ndarray]:
    """A row a frame; empty if the record has none at all."""
    rows = [floats_of(features.get(f"{i}/{key}", memoryview(b""))) for i in range(frames)]
    sizes = {len(row) for row in rows}
    if len(sizes) > 1:
        raise VideoError("corrupt", f"{key} has {min(sizes)} to {max(sizes)} numbers a frame")
    return rows if sizes != {0} else []
