"""Streams that no encoder at hand makes, written bit by bit.

- H.264 in which every field is a picture of its own (PAFF), macroblocks uncoded (I_PCM): ITU-T H.264, 7.3.
- MPEG-4 Part 2 pictures that are not coded (N-VOP), and B pictures packed into the chunk before them, as Xvid and DivX
  write them into AVI: ISO/IEC 14496-2, 6.2.5.
"""

from __future__ import annotations

import numpy as np

from tests.oracle.picture import Picture

_START = b"\0\0\0\1"


class Bits:
    """Collects bits, the highest first."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, size: int, value: int) -> Bits:
        self.text += format(value, f"0{size}b")
        return self

    def ue(self, value: int) -> Bits:
        digits = format(value + 1, "b")
        self.text += "0" * (len(digits) - 1) + digits
        return self

    def data(self) -> bytes:
        """What came so far, which must end at a byte."""
        assert len(self.text) % 8 == 0
        return int(self.text or "0", 2).to_bytes(len(self.text) // 8, "big")

    def closed(self) -> bytes:
        """With the stop bit and zeros after it."""
        self.text += "1"
        self.text += "0" * (-len(self.text) % 8)
        return self.data()


def _unit(kind: int, reference: int, payload: bytes) -> bytes:
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return _START + bytes([reference << 5 | kind]) + bytes(escaped)


def avc_headers(width: int, height: int, fps: int) -> bytes:
    """Parameter sets for `avc_field`: sides are multiples of 16 and 32, 4:2:0, limited BT.601."""
    assert width % 16 == 0 and height % 32 == 0
    sps = Bits().u(8, 77).u(8, 0).u(8, 30).ue(0).ue(0).ue(0).ue(4).ue(1).u(1, 0)
    sps.ue(width // 16 - 1).ue(height // 32 - 1).u(1, 0).u(1, 0).u(1, 1).u(1, 0)
    sps.u(1, 1).u(4, 0).u(1, 1).u(32, 1).u(32, 2 * fps).u(1, 1).u(4, 0)  # only the rate
    pps = Bits().ue(0).ue(0).u(2, 0).ue(0).ue(0).ue(0).u(3, 0).ue(0).ue(0).ue(0).u(3, 4)
    return _unit(7, 3, sps.closed()) + _unit(8, 3, pps.closed())


def avc_field(picture: Picture, number: int, bottom: bool, place: int) -> bytes:
    """One field of frame `number`, the `place`th since the last key frame."""
    frame = picture.frame(number, "yuv420p")
    planes = []
    for stored in frame.planes:
        rows = np.frombuffer(bytes(stored), np.uint8).reshape(-1, stored.line_size)[: stored.height, : stored.width]
        planes.append(rows[int(bottom) :: 2])
    key = place == 0 and not bottom
    head = Bits().ue(0).ue(7).ue(0).u(4, place % 16).u(1, 1).u(1, int(bottom))
    if key:
        head.ue(number % 2)
    head.u(8, (2 * place + bottom) % 256)
    head.u(2, 0) if key else head.u(1, 0)
    head.ue(0).ue(1)
    head.ue(25)
    head.text += "0" * (-len(head.text) % 8)
    payload = bytearray(head.data())
    across, down = planes[0].shape[1] // 16, planes[0].shape[0] // 16
    between = Bits().ue(25)
    between.text += "0" * (-len(between.text) % 8)
    for index in range(across * down):
        x, y = index % across, index // across
        if index:
            payload += between.data()
        payload += planes[0][16 * y : 16 * y + 16, 16 * x : 16 * x + 16].tobytes()
        for plane in planes[1:]:
            payload += plane[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].tobytes()
    return _unit(5 if key else 1, 1, bytes(payload) + b"\x80")


def not_coded(place: int, fps: int) -> bytes:
    """An MPEG-4 picture that repeats the one before it, of frame `place`; not at a full second."""
    assert place % fps
    bits = Bits().u(2, 1).u(1, 0).u(1, 1).u((fps - 1).bit_length(), place % fps).u(1, 1).u(1, 0).u(1, 0)
    bits.text += "1" * (-len(bits.text) % 8)
    return b"\0\0\1\xb6" + bits.data()
