"""TensorBoard's event files, without TensorBoard: scalars as protobuf messages in a TFRecord file.

The format is public: a record is length, masked CRC-32C of the length, data, masked CRC-32C of the data
(https://www.tensorflow.org/tutorials/load_data/tfrecord); the data is an `Event` message
(https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto). Writing it takes a page;
the package would bring a web server and gRPC into every training. `tensorboard --logdir` shows the files.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import google_crc32c


class EventWriter:
    """Appends scalars to one event file.

    Args:
        folder: where the file goes.
        step: the step to go on from. A new file is begun that tells TensorBoard to forget what older files hold of
            later steps: they came after the checkpoint that the run went on from.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for _ in folder.glob("events.out.tfevents.*"))
        self.path = folder / f"events.out.tfevents.{number:010d}.vtok"
        self._append(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))
        if number > 1:
            session_start = _varint_field(1, 1)
            self._append(_double(1, time.time()) + _varint_field(2, step + 1) + _bytes(7, session_start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the scalars of a step."""
        summary = b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in values.items())
        self._append(_double(1, time.time()) + _varint_field(2, step) + _bytes(5, summary))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as stream:
            stream.write(length + _masked_crc(length) + event + _masked_crc(event))


def _masked_crc(data: bytes) -> bytes:
    crc = int.from_bytes(google_crc32c.Checksum(data).digest(), "big")
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
