"""A small encoder of H.264 whose pictures are fields, each in a packet of its own (PAFF), which x264 cannot make.

Every macroblock is PCM: a frame's pixels are known to the bit. A frame is coded as two fields or as one picture.
ITU-T H.264, sections 7.3.2 to 7.3.5; Main profile, CAVLC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video.making import numbered_frame

SIDE = 96
_BLACK, _WHITE, _GREY = 16, 235, 128


class _Writer:
    """Writes bits."""

    def __init__(self) -> None:
        self._text = ""

    def bits(self, value: int, count: int) -> None:
        self._text += format(value, f"0{count}b") if count else ""

    def golomb(self, *values: int) -> None:
        """Unsigned exponential Golomb codes; that of the signed 0 is the same."""
        for value in values:
            code = format(value + 1, "b")
            self._text += "0" * (len(code) - 1) + code

    def align(self, first: str = "0") -> bytes:
        """All so far, filled up with zeros behind `first`."""
        text = self._text + first if first == "1" or len(self._text) % 8 else self._text
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _nal(kind: int, reference: int, payload: bytes) -> bytes:
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = 0 if byte else zeros + 1
    return b"\0\0\0\1" + bytes([reference << 5 | kind]) + bytes(escaped)


def _parameters() -> bytes:
    sequence = _Writer()
    sequence.bits(77, 8)
    sequence.bits(0, 8)
    sequence.bits(30, 8)
    sequence.golomb(0, 4, 0, 4, 2)  # id, frame_num of 8 bits, order count type 0 of 8 bits, 2 reference frames
    sequence.bits(0, 1)
    sequence.golomb(SIDE // 16 - 1, SIDE // 32 - 1)
    sequence.bits(0b0_0_1_0_0, 5)  # not frames only, no MBAFF, direct_8x8, no cropping, no VUI
    picture = _Writer()
    picture.golomb(0, 0)
    picture.bits(0, 2)
    picture.golomb(0, 0, 0)
    picture.bits(0, 3)
    picture.golomb(0, 0, 0)
    picture.bits(0b1_0_0, 3)  # deblocking is told by the slice
    return _nal(7, 3, sequence.align("1")) + _nal(8, 3, picture.align("1"))


def _picture(
    luma_hw: np.ndarray, frame_num: int, order: int, *, parity: int | None, idr: bool, reference: bool
) -> bytes:
    """One picture as a NAL unit: a frame, or a field (parity 0: the upper one)."""
    head = _Writer()
    head.golomb(0, 7, 0)
    head.bits(frame_num % 256, 8)
    head.bits(0 if parity is None else 1, 1)
    if parity is not None:
        head.bits(parity, 1)
    if idr:
        head.golomb(0)
    head.bits(order % 256, 8)
    if reference:
        head.bits(0, 2 if idr else 1)
    head.golomb(0, 1)  # no change of QP, no deblocking
    head.golomb(25)
    data = head.align()
    chroma, between = bytes([_GREY] * 128), bytes([0b0000_1101, 0b0000_0000])  # mb_type 25: 0000 11010, aligned
    rows, columns = luma_hw.shape[0] // 16, luma_hw.shape[1] // 16
    blocks = luma_hw.reshape(rows, 16, columns, 16).swapaxes(1, 2).reshape(-1, 256)
    data += between.join(block.tobytes() + chroma for block in blocks)
    return _nal(5 if idr else 1, 3 if reference else 0, data + b"\x80")


def write_fields(
    path: Path,
    count: int,
    *,
    paired: Callable[[int], bool] = lambda number: True,
    gop: int = 8,
    reorder: bool = False,
) -> Path:
    """Frames 0 .. count-1, numbered as those of `write_video`, 25 a second.

    Args:
        path: the file; its name says the container.
        count: frames.
        paired: by the frame's number, whether it is two fields in two packets; else it is one picture.
        gop: frames from one key frame to the next.
        reorder: whether every second frame that is no key frame is stored behind the one that is shown after it.
    """
    raw = path.with_suffix(".raw.264")
    order = _stored(count, gop, reorder=reorder)
    units: list[tuple[bytes, int, int, bool]] = []  # bytes, shown at, decoded at (fields), key frame
    frame_num = 0
    for place, number in enumerate(order):
        key, within = number % gop == 0, number % gop
        reference = not reorder or key or within % 2 == 0
        frame_num = 0 if key else frame_num
        luma = np.where(numbered_frame(number, SIDE, SIDE)[..., 1] > 127, _WHITE, _BLACK).astype(np.uint8)
        head = b"\0\0\0\1\x09\x10" + (_parameters() if key else b"")
        if paired(number):
            for parity in (0, 1):
                unit = _picture(
                    luma[parity::2],
                    frame_num,
                    2 * within + parity,
                    parity=parity,
                    idr=key and not parity,
                    reference=reference,
                )
                units.append((head + unit, 2 * number + parity, 2 * place + parity, key and not parity))
                head = b"\0\0\0\1\x09\x10"
        else:
            unit = _picture(luma, frame_num, 2 * within, parity=None, idr=key, reference=reference)
            units.append((head + unit, 2 * number, 2 * place, key))
        frame_num += reference
    raw.write_bytes(b"".join(unit for unit, _, _, _ in units))
    if path.suffix == ".264":
        return raw.rename(path)
    _mux(raw, path, units, delay=2 if reorder else 0)
    raw.unlink()
    return path


def _stored(count: int, gop: int, *, reorder: bool) -> list[int]:
    order = list(range(count))
    if reorder:
        for number in range(1, count - 1):
            if number % gop and number % gop % 2 == 1 and (number + 1) % gop:
                order[number], order[number + 1] = number + 1, number
    return order


def _mux(raw: Path, path: Path, units: Sequence[tuple[bytes, int, int, bool]], *, delay: int) -> None:
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = Fraction(1, 50)
        for data, shown, decoded, key in units:
            packet = av.Packet(data)
            packet.pts, packet.dts, packet.duration, packet.time_base = shown + delay, decoded, 1, Fraction(1, 50)
            packet.is_keyframe, packet.stream = key, stream
            new.mux(packet)
