"""Writes facts about the display into finished files, byte by byte."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

from tests.oracle.picture import Turn

_MATRIX = 44  # bytes from a version 0 `tkhd` box's name to its matrix


def set_matrix(path: Path, turn: Turn, *, scale: float = 1.0, degrees: float = 0.0) -> None:
    """Sets the display matrix of the first track of an MP4 or MOV file (ISO/IEC 14496-12, 8.3.2).

    `scale` and `degrees` (clockwise) make it one that is no turn by a right angle.
    """
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd")
    assert data[at + 4] == 0, "version 0"
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    a, b, c, d = turn
    slanted = (a * cosine - b * sine, a * sine + b * cosine, c * cosine - d * sine, c * sine + d * cosine)
    a, b, c, d = (round(part * scale * 65536) for part in slanted)
    data[at + _MATRIX : at + _MATRIX + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def set_pixel_crop(path: Path, left: int, top: int) -> None:
    """Makes of a Matroska file's display size a crop (RFC 9559, 5.1.4.1.28): elements of equal size change places.

    It asks a player to crop, and is no part of the picture: both decoders give the whole frame.
    """
    data = bytearray(path.read_bytes())
    sizes = re.search(rb"\x54\xb0[\x81\x82].{1,2}\x54\xba", data, re.DOTALL)
    assert sizes is not None
    for name, other, value in ((b"\x54\xb0", b"\x54\xcc", left), (b"\x54\xba", b"\x54\xbb", top)):
        at = data.index(name, sizes.start())
        assert data[at + 2] in (0x81, 0x82)
        size = data[at + 2] & 0x7F
        data[at : at + 2] = other
        data[at + 3 : at + 3 + size] = value.to_bytes(size, "big")
    path.write_bytes(data)
