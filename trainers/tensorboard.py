"""TensorBoard's event files, without TensorBoard: scalars and histograms as protobuf messages in a TFRecord file.

The format is public: a record is length, masked CRC-32C of the length, data, masked CRC-32C of the data
(https://www.tensorflow.org/tutorials/load_data/tfrecord); the data is an `Event` message
(https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto), a histogram in it a
`HistogramProto` (summary.proto beside it). Writing them takes a page; the package would bring a web server and gRPC
into every training. `tensorboard --logdir` shows the files.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Int64

_MOST_BUCKETS = 512  # TensorBoard draws 30


class EventWriter:
    """Appends scalars and histograms to one event file.

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

    def write_counts(self, step: int, counts: dict[str, Int64[np.ndarray, " k"]]) -> None:
        """Adds histograms of a step: `counts[name][i]` is how often the integer i occurred.

        A bucket ends where the next one begins. Of more than 512 integers, neighbours share a bucket.
        """
        values = [_bytes(1, name.encode()) + _bytes(5, _histogram(each)) for name, each in counts.items()]
        summary = b"".join(_bytes(1, value) for value in values)
        self._append(_double(1, time.time()) + _varint_field(2, step) + _bytes(5, summary))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as stream:
            stream.write(length + _masked_crc(length) + event + _masked_crc(event))


def _histogram(counts_k: Int64[np.ndarray, " k"]) -> bytes:
    """Least, most, number, sum and sum of squares; then the buckets' upper limits and what is in them."""
    width = -(-len(counts_k) // _MOST_BUCKETS)
    starts = np.arange(0, len(counts_k), width)
    limits = np.minimum(starts + width, len(counts_k))
    integers, times = np.arange(len(counts_k), dtype=np.float64), counts_k.astype(np.float64)
    facts = [0.0, float(len(counts_k)), float(times.sum()), float(times @ integers), float(times @ integers**2)]
    message = b"".join(_double(number, value) for number, value in enumerate(facts, 1))
    buckets = np.add.reduceat(times, starts)
    return message + _bytes(6, limits.astype("<f8").tobytes()) + _bytes(7, buckets.astype("<f8").tobytes())


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
