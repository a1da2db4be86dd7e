"""What a decoding child and its parent say to each other: a JSON header with its length before it, then raw bytes.

A clip's frames lie in shared memory where they fit (`child_slots`), all other arrays follow the header.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from vtok.video.child_slots import Slots
from vtok.video.probe import StreamFacts
from vtok.video.timeline import Segment

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


def pack_facts(facts: StreamFacts) -> tuple[dict[str, Any], bytes]:
    """The header of a video's facts, and the bytes of its frames' times that follow it."""
    data = np.asarray(facts.times, np.float64).tobytes()
    return {"facts": facts._replace(times=())._asdict(), "bytes": len(data)}, data


def unpack_facts(header: dict[str, Any], data: bytes | memoryview) -> StreamFacts:
    """What `pack_facts` packed."""
    facts = StreamFacts(**header["facts"])
    return facts._replace(
        segments=tuple(Segment(*found) for found in facts.segments), times=array("d", bytes(data)) or ()
    )


def pack_clip(clip: DecodedClip, slots: Slots) -> tuple[dict[str, Any], list[memoryview]]:
    """The header of a clip, and the bytes of the arrays that follow it."""
    slot = slots.put(clip.frames_thwc)
    arrays = {"": clip.frames_thwc, **clip.extras} if slot is None else clip.extras
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {
        "slot": None if slot is None else [slot, clip.frames_thwc.shape],
        "arrays": [[name, array.dtype.str, list(array.shape), array.nbytes] for name, array in whole.items()],
        "bytes": sum(array.nbytes for array in whole.values()),
    }
    return header, [array.reshape(-1).data.cast("B") for array in whole.values()]


def unpack_clip(header: dict[str, Any], data: memoryview, slots: Slots) -> DecodedClip:
    """What `pack_clip` made."""
    found, at = {}, 0
    if header["slot"] is not None:
        found[""] = slots.take(*header["slot"])
    for name, kind, shape, size in header["arrays"]:
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
