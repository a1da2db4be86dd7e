"""What H.264 packets say about their pictures, as far as it takes to count and order them without decoding.

ITU-T H.264, sections 7.3 (syntax), 7.4.1.2.4 (where a picture begins) and 8.2.1 (picture order count).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vtok.video.bits import Bits

_SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
_HEADER = 48  # bytes of a slice that hold what is read of it
_HIGH = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}  # profiles whose SPS says more


class _Sequence(NamedTuple):
    """Of a sequence parameter set."""

    separate_planes: bool
    frame_num_bits: int
    order_type: int
    order_bits: int
    fields: bool  # whether its pictures may be fields
    skips: bool  # whether numbers of frames may be missing though no frame is (gaps_in_frame_num_value_allowed_flag)


class Slice(NamedTuple):
    """The first slice of a picture.

    Attributes:
        idr: whether decoding can start here, with nothing before it.
        reference: whether others may be predicted from the picture.
        frame_num: see the standard.
        parity: None for a frame, 0 for a top field, 1 for a bottom field.
        order: sorts the pictures from one IDR picture to the next as they are shown; None where that is not read (order
            count type 1).
        whole: whether the packet holds a frame or two fields, and not one field.
    """

    idr: bool
    reference: bool
    frame_num: int
    parity: int | None
    order: int | None
    whole: bool


class H264:
    """Reads the packets of one stream, in their order.

    Args:
        extradata: the decoder's configuration: avcC, or parameter sets in Annex B, or nothing.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}  # PPS to SPS
        self._length = 0  # bytes of a NAL unit's length; 0: Annex B
        self._before = (0, 0)  # high and low part of the last reference picture's order
        self._count = 0
        if extradata[:1] == b"\x01" and len(extradata) > 6:
            self._length = (extradata[4] & 3) + 1
            for nal in _configured(extradata):
                self._parameters(nal)
        else:
            for nal in _annex_b(extradata):
                self._parameters(nal)

    @property
    def has_fields(self) -> bool:
        """Whether pictures may be fields, as far as parameter sets have been seen."""
        return any(sequence.fields for sequence in self._sequences.values())

    @property
    def skips_numbers(self) -> bool:
        """Whether the numbers of frames may have gaps by intent, as far as parameter sets have been seen."""
        return any(sequence.skips for sequence in self._sequences.values())

    def read(self, packet: bytes) -> Slice | None:
        """The first slice of a packet; None where none can be read."""
        found: Slice | None = None
        for nal in _prefixed(packet, self._length) if self._length else _annex_b(packet):
            kind = nal[0] & 31
            try:
                if kind in (_SPS, _PPS):
                    self._parameters(nal)
                elif kind in (_SLICE, _IDR):
                    slice_ = self._slice(nal, again=found is not None)
                    if found is None:
                        found = slice_
                    elif found.parity is not None and slice_.parity != found.parity:
                        return found._replace(whole=True)
                    if found.parity is None:
                        return found
            except (IndexError, KeyError):
                continue
        return found

    def _parameters(self, nal: bytes) -> None:
        try:
            if nal[0] & 31 == _SPS:
                number, sequence = _sequence(nal)
                self._sequences[number] = sequence
            elif nal[0] & 31 == _PPS:
                bits = Bits(_unescaped(nal[1:_HEADER]))
                number = bits.golomb()
                self._pictures[number] = bits.golomb()
        except IndexError:
            pass

    def _slice(self, nal: bytes, *, again: bool) -> Slice:
        idr, reference = nal[0] & 31 == _IDR, bool(nal[0] & 0x60)
        bits = Bits(_unescaped(nal[1:_HEADER]))
        bits.golomb()  # first_mb_in_slice
        bits.golomb()  # slice_type
        sequence = self._sequences[self._pictures[bits.golomb()]]
        if sequence.separate_planes:
            bits.take(2)
        frame_num, parity = bits.take(sequence.frame_num_bits), None
        if sequence.fields and bits.take(1):
            parity = bits.take(1)
        if idr:
            bits.golomb()  # idr_pic_id
        order = None
        if not again:
            self._count += 1
            if sequence.order_type == 0:
                low, span = bits.take(sequence.order_bits), 1 << sequence.order_bits
                order = self._order(low, span, idr=idr, reference=reference)
            elif sequence.order_type == 2:  # shown as they are stored
                order = self._count
        return Slice(idr, reference, frame_num, parity, order, parity is None)

    def _order(self, low: int, span: int, *, idr: bool, reference: bool) -> int:
        """Section 8.2.1.1: the low bits are sent, the high ones follow from the last reference picture."""
        high, before = (0, 0) if idr else self._before
        if low < before and before - low >= span // 2:
            high += span
        elif low > before and low - before > span // 2:
            high -= span
        if reference:
            self._before = high, low
        return high + low


def _sequence(nal: bytes) -> tuple[int, _Sequence]:
    bits = Bits(_unescaped(nal[1:]))
    profile = bits.take(8)
    bits.take(16)
    number, separate = bits.golomb(), False
    if profile in _HIGH:
        chroma = bits.golomb()
        separate = chroma == 3 and bool(bits.take(1))
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for i in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    _skip_scaling(bits, 16 if i < 6 else 64)
    frame_num_bits, order_type, order_bits = bits.golomb() + 4, bits.golomb(), 0
    if order_type == 0:
        order_bits = bits.golomb() + 4
    elif order_type == 1:
        bits.take(1)
        bits.signed_golomb()
        bits.signed_golomb()
        for _ in range(bits.golomb()):
            bits.signed_golomb()
    bits.golomb()  # max_num_ref_frames
    skips = bool(bits.take(1))
    bits.golomb()  # width and height
    bits.golomb()
    return number, _Sequence(separate, frame_num_bits, order_type, order_bits, not bits.take(1), skips)


def _skip_scaling(bits: Bits, size: int) -> None:
    last = after = 8
    for _ in range(size):
        if after:
            after = (last + bits.signed_golomb()) % 256
        last = after or last


def _unescaped(data: bytes) -> bytes:
    return data.replace(b"\0\0\3", b"\0\0")


def _configured(extradata: bytes) -> Iterator[bytes]:
    """Parameter sets of an avcC record (ISO/IEC 14496-15, section 5.3.3)."""
    at, groups = 5, (31, 255)
    for mask in groups:
        if at >= len(extradata):
            return
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            if size:
                yield extradata[at + 2 : at + 2 + size]
            at += 2 + size


def _prefixed(packet: bytes, length: int) -> Iterator[bytes]:
    at = 0
    while at + length < len(packet):
        size = int.from_bytes(packet[at : at + length], "big")
        if size:
            yield packet[at + length : at + length + size]
        at += length + size


def _annex_b(packet: bytes) -> Iterator[bytes]:
    at = packet.find(b"\0\0\1")
    while at >= 0:
        following = packet.find(b"\0\0\1", at + 3)
        nal = packet[at + 3 : following if following >= 0 else len(packet)]
        if nal:
            yield nal
        at = following
