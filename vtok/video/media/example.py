"""tf.train.Example, read straight from the protobuf wire format: maps from names to lists of bytes or floats.

Messages (https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto):
Example {1: Features}, Features {1: map entry {1: name, 2: Feature}}, Feature {1: BytesList, 2: FloatList}, lists
{1: repeated value}. Wire format: https://protobuf.dev/programming-guides/encoding. Nothing is copied but names and
floats, and no length is believed beyond the bytes that are there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def read_example(data: memoryview) -> dict[str, memoryview]:
    """The features of an Example by name, each still encoded: see `bytes_of` and `floats_of`.

    Raises:
        ValueError: the bytes are no Example.
    """
    found: dict[str, memoryview] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            name, feature = memoryview(b""), memoryview(b"")
            for number, kind, value in _fields(entry):
                if (number, kind) == (1, _BYTES):
                    name = value
                elif (number, kind) == (2, _BYTES):
                    feature = value
            found[str(name, "utf-8")] = feature
    return found


def bytes_of(feature: memoryview) -> list[memoryview]:
    """The values of a feature that holds bytes; empty if it holds something else.

    Raises:
        ValueError: it is damaged.
    """
    return [value for values in _messages(feature, 1) for value in _messages(values, 1)]


def floats_of(feature: memoryview) -> Float32[np.ndarray, " n"]:
    """The values of a feature that holds floats, packed or not; empty if it holds something else.

    Raises:
        ValueError: it is damaged.
    """
    blocks = [
        value
        for values in _messages(feature, 2)
        for number, kind, value in _fields(values)
        if number == 1 and kind in (_BYTES, _FIXED32)
    ]
    return np.frombuffer(b"".join(blocks), "<f4").astype(np.float32)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of a field that are messages, strings or bytes."""
    for number, kind, value in _fields(data):
        if number == wanted and kind == _BYTES:
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, value) of every field; the value of a varint is left out."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, end = _varint(data, at)
            at = end
        elif kind == _BYTES:
            size, at = _varint(data, at)
            end = at + size
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if end > len(data):
            raise ValueError(f"a field ends {end - len(data)} bytes past its message")
        yield tag >> 3, kind, data[at:end]
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for i, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(f"no number at byte {at}")
