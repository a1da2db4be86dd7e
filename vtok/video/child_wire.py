"""What a decoding child and its parent say to each other: a JSON header with its length before it, then raw bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from vtok.video.probe import StreamFacts

RECEIVED = b"."
"""The first answer to every request: whoever dies from now on dies of the request."""


class Probed(NamedTuple):
    """What a probe found out.

    Attributes:
        facts: of the frames.
        bytes: stored size of the file or of the item in it.
    """

    facts: StreamFacts
    bytes: int


class DecodedClip(NamedTuple):
    """One clip.

    Attributes:
        frames_thwc: uint8 RGB.
        extras: what belongs to it: `audio` (int16, mono), or signals with one row a frame, by name.
    """

    frames_thwc: np.ndarray
    extras: dict[str, np.ndarray]


def pack_clip(clip: DecodedClip) -> tuple[list[list[Any]], list[memoryview]]:
    """Name, type and shape of every array of a clip, and their bytes."""
    arrays = {"": clip.frames_thwc, **clip.extras}
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return (
        [[name, array.dtype.str, list(array.shape), array.nbytes] for name, array in whole.items()],
        [array.reshape(-1).data.cast("B") for array in whole.values()],
    )


def unpack_clip(arrays: list[list[Any]], data: bytes) -> DecodedClip:
    """What `pack_clip` made."""
    found, at = {}, 0
    for name, kind, shape, size in arrays:
        found[name] = np.frombuffer(data, np.dtype(kind), count=math.prod(shape), offset=at).reshape(shape)
        at += size
    return DecodedClip(found.pop(""), found)


def write_message(stream: IO[bytes], header: dict[str, Any], blocks: Sequence[bytes | memoryview] = ()) -> None:
    """Sends a header and the raw bytes that belong to it."""
    text = json.dumps(header).encode()
    stream.write(len(text).to_bytes(4, "big") + text)
    for block in blocks:
        stream.write(block)
    stream.flush()


def read_request(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next request, or None at the end."""
    size = stream.read(4)
    if len(size) < 4:
        return None
    return dict(json.loads(stream.read(int.from_bytes(size, "big"))))
