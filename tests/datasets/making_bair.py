"""Records as BAIR's files hold them, made by hand: nothing here is vtok's, so that its reader meets strange bytes.

`python -m tests.datasets.making_bair` writes the committed fixture, bair.tfrecords.gz: two native records of 30 frames.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent / "bair.tfrecords.gz"
FRAMES = 30
VIEWS = {"image_main": 1, "image_aux1": 2}


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bit by bit through a table that is made bit by bit."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = crc >> 15 | crc << 17 & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def framed(data: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, count = b"", len(data)
    while count > 127:
        size += bytes([count % 128 + 128])
        count //= 128
    return bytes([number * 8 + 2]) + size + bytes([count]) + data


def raw(data: bytes) -> bytes:
    return field(1, field(1, data))


def floats(values: list[float], packed: bool = True) -> bytes:
    numbers = [struct.pack("<f", value) for value in values]
    return field(2, field(1, b"".join(numbers)) if packed else b"".join(b"\x0d" + number for number in numbers))


def example(features: dict[str, bytes]) -> bytes:
    return field(1, b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()))


def frame(record: int, i: int, view: str) -> np.ndarray:
    """uint8 (64, 64, 3): the upper half tells record, frame and camera, the lower quarters are green and blue."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = (8 * i, 60 * record + 7, 50 * VIEWS[view])
    picture[32:, :32, 1] = 255
    picture[32:, 32:, 2] = 255
    return picture


def action(record: int, i: int) -> list[float]:
    return [record + 0.5, float(i), -0.25, i / 8]


def position(record: int, i: int) -> list[float]:
    return [i / 4, float(record), 1.5]


def features(record: int, frames: int = FRAMES) -> dict[str, bytes]:
    """The features of a record by name, in the order of names, as TensorFlow's maps often have them."""
    found = {}
    for i in range(frames):
        found |= {f"{i}/{view}/encoded": raw(frame(record, i, view).tobytes()) for view in VIEWS}
        found[f"{i}/action"] = floats(action(record, i), packed=i % 2 == 0)
        found[f"{i}/endeffector_pos"] = floats(position(record, i))
    return dict(sorted(found.items()))


def native() -> bytes:
    """The fixture's bytes."""
    return b"".join(framed(example(features(record))) for record in range(2))


if __name__ == "__main__":
    FIXTURE.write_bytes(gzip.compress(native(), 9, mtime=0))
