"""Which way up a frame is to be seen: the display matrix of its container or bitstream, read whole.

The matrix (ISO/IEC 14496-12, `tkhd`; H.264 and HEVC have the like in a message) says where a viewer puts each pixel. Of
all that it can say, the eight orientations are taken; another angle becomes the nearest right one, and is said. What it
says of shifts and sizes does not count, as in the ffmpeg program.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import NamedTuple, cast

from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

_MATRIX = "DISPLAYMATRIX"
_STRAIGHT = 0.5  # degrees that an angle may be off a right one without a word: matrices are rounded


class Orientation(NamedTuple):
    """How a stored frame becomes an upright one.

    Attributes:
        rotation: degrees counter-clockwise that a viewer turns the frame by: 0, 90, 180 or 270.
        mirrored: whether it is flipped left to right before that.
        tilt: degrees counter-clockwise that it should be turned by further, which is not done; -45 to 45.
    """

    rotation: int = 0
    mirrored: bool = False
    tilt: float = 0.0


def orientation(frame: VideoFrame) -> Orientation:
    """A decoded frame's; upright if it says nothing or nonsense."""
    data = cast(Mapping[str, SideData], frame.side_data).get(_MATRIX)  # iterated, PyAV 19 gives keys, others values
    if data is None:
        return Orientation()
    matrix = struct.unpack_from("=9i", memoryview(data))
    return from_matrix(matrix[0], matrix[1], matrix[3], matrix[4])


def from_matrix(a: float, b: float, c: float, d: float) -> Orientation:
    """Of the matrix that puts the pixel (x, y) at (a x + c y, b x + d y); y points down."""
    determinant = a * d - b * c
    if not determinant:
        return Orientation()
    mirrored = determinant < 0
    # Where a step to the right goes once the frame has been flipped, if it is.
    across, down = (-a, -b) if mirrored else (a, b)
    angle = -math.degrees(math.atan2(down, across))
    rotation = round(angle / 90) * 90
    tilt = angle - rotation
    return Orientation(rotation % 360, mirrored, round(tilt, 1) if abs(tilt) > _STRAIGHT else 0.0)
