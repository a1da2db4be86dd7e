"""What packets of MPEG-1, MPEG-2 and MPEG-4 part 2 say about their pictures, without decoding.

ISO/IEC 11172-2 (2.4.2.5), 13818-2 (6.2.3) and 14496-2 (6.2.3, 6.2.5): a picture of type B is shown as soon as it is
decoded, one of another type after the B pictures that follow it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vtok.video.bits import Bits

_PICTURE, _VOP = b"\0\0\1\0", b"\0\0\1\xb6"
_PACKING = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:b|Build)\d+p")  # user data by which DivX and Xvid say that they pack
_B12, _B4 = 3, 2
_HEADER = 64  # bytes; a picture that is larger is coded


class Coded(NamedTuple):
    """A picture of a packet.

    Attributes:
        late: whether it is of type B: shown before the one that was decoded before it.
        coded: False for a picture that repeats the one before it.
    """

    late: bool
    coded: bool = True


class Mpeg12:
    """Reads packets of MPEG-1 and MPEG-2."""

    reads_all = False

    def read(self, packet: bytes) -> Coded | None:
        """The first picture of a packet; None where none can be read."""
        at = packet.find(_PICTURE)
        if at < 0 or at + 5 >= len(packet):
            return None
        return Coded(packet[at + 5] >> 3 & 7 == _B12)


class Mpeg4:
    """Reads packets of MPEG-4 part 2.

    DivX and Xvid pack a B picture into the packet of the picture before it; a picture that is not coded, in a packet of
    its own, then takes the B picture's place. Elsewhere a picture that is not coded repeats the one before it.

    Args:
        extradata: the decoder's configuration.
    """

    def __init__(self, extradata: bytes) -> None:
        self._time_bits: int | None = None
        self._packs = False
        self._packed = 0  # pictures that came in packets of others and still need a place
        self._configure(extradata)

    @property
    def reads_all(self) -> bool:
        """Whether it must be given whole packets, and not only their beginning."""
        return self._packs

    @property
    def swallowed(self) -> int:
        """Pictures that came packed and have had no place so far: at the end of a stream decoders lose them."""
        return self._packed

    def read(self, packet: bytes) -> Coded | None:
        """The first picture of a packet; None where none can be read."""
        at = packet.find(_VOP)
        if at < 0 or at + 4 >= len(packet):
            return None
        if at:
            self._configure(packet[:at])
        late = packet[at + 4] >> 6 == _B4
        coded = len(packet) - at > _HEADER or self._is_coded(packet[at + 4 :])
        if not coded and self._packed:
            self._packed -= 1
            return Coded(late=True)
        if self._packs:
            self._packed += packet.count(_VOP, at + 4)
        return Coded(late, coded)

    def _is_coded(self, header: bytes) -> bool:
        if self._time_bits is None:
            return True
        bits = Bits(header)
        try:
            bits.take(2)
            while bits.take(1):
                pass
            bits.take(1 + self._time_bits + 1)
            return bool(bits.take(1))
        except IndexError:
            return True

    def _configure(self, data: bytes) -> None:
        self._packs = self._packs or _PACKING.search(data) is not None
        at = data.find(b"\0\0\1")
        while at >= 0 and at + 3 < len(data):
            if 0x20 <= data[at + 3] <= 0x2F:
                try:
                    self._time_bits = _time_bits(Bits(data[at + 4 : at + 4 + 64]))
                except IndexError:
                    return
            at = data.find(b"\0\0\1", at + 3)


def _time_bits(bits: Bits) -> int:
    """Bits of vop_time_increment, from a video object layer."""
    bits.take(1 + 8)
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:  # the aspect ratio is told
        bits.take(16)
    if bits.take(1):  # vol_control_parameters
        bits.take(2 + 1)
        if bits.take(1):
            bits.take(79)
    shape = bits.take(2)
    if shape == 3 and version != 1:
        bits.take(4)
    bits.take(1)
    return max(1, (bits.take(16) - 1).bit_length())
