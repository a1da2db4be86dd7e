"""Frames that are had one by one, as image folders and arrays hold them, cut into clips like a video's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

from vtok.video.errors import VideoError
from vtok.video.geometry import Geometry
from vtok.video.pixels import Converter
from vtok.video.probe import StreamFacts

Indexed = tuple[int, np.ndarray | VideoError]


class FrameSequence(NamedTuple):
    """A video that is no video file.

    Attributes:
        facts: of the frames; `codec` says how they are stored.
        bytes: stored size, for noticing that the source has changed.
        read: from a frame's index to uint8 (h, w, 3) RGB; raises VideoError.
        digest: sha256 of all that the item holds, hex.
        signals: what else belongs to each frame, by name (actions, ...): arrays whose first axis is the frames'.
    """

    facts: StreamFacts
    bytes: int
    read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    digest: Callable[[], str]
    signals: Mapping[str, np.ndarray] = {}


class Opened(NamedTuple):
    """One opened item: a video file at `path`, or a `sequence` of frames.

    Attributes:
        path: a file that video decoders open.
        bytes: its size where it is a part of another file; None: what the file system says.
        sequence: the frames, if the item is no video file.
    """

    path: Path
    bytes: int | None
    sequence: FrameSequence | None


def sequence_facts(*, codec: str, fps: float, height: int, width: int, frames: int) -> StreamFacts:
    """Facts of frames that lie evenly in time and upright, without sound.

    Raises:
        VideoError: no_frames.
    """
    if frames < 1:
        raise VideoError("no_frames", "the item has no frames")
    return StreamFacts(0, codec, fps, height, width, frames, True, frames / fps, 0, False)


def read_sequence(sequence: FrameSequence, wanted: Sequence[int], geometry: Geometry) -> Iterator[Indexed]:
    """Yields `(index, uint8 (r, r, 3))` for the wanted frames in order; VideoError for a frame that cannot be had.

    Raises:
        VideoError: missing_frames, past the end.
    """
    converter = Converter(geometry)
    for index in wanted:
        if index >= sequence.facts.frames:
            raise VideoError("missing_frames", f"there are {sequence.facts.frames} frames, {wanted[-1] + 1} are needed")
        try:
            yield index, _shape(sequence.read(index), geometry, converter)
        except VideoError as error:
            yield index, error


def _shape(frame_hwc: UInt8[np.ndarray, "h w 3"], geometry: Geometry, converter: Converter) -> np.ndarray:
    size = frame_hwc.shape[0], frame_hwc.shape[1]
    if geometry.scaled_size(*size) == size:
        return geometry.finish([frame_hwc])
    # The policy `fast`.
    return geometry.finish(converter(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_hwc), format="rgb24")))


def hash_bytes(*blocks: bytes | memoryview) -> str:
    """sha256 of the blocks after each other, hex."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
