"""Whether the bytes of an FFV1 packet are those that were encoded, by the checksums of its slices (RFC 9043, 4.9).

FFmpeg's decoder compares them too, but only says so in its log, whatever `err_detect` asks for (FFmpeg 8.1): it goes on
with pixels of other frames, or of fresh memory. From version 3 on a slice ends with its size in three bytes and, if the
encoder was not told otherwise, with an error status of one byte and a CRC-32 by which that of the whole slice is 0.
"""

from __future__ import annotations

import zlib

_SIZE, _FOOTER = 3, 8  # bytes: of the slice's size; with status and checksum
_ONES = 0xFFFFFFFF
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class SliceChecksums:
    """Checks the packets of one stream in the order of the file.

    Whether slices have checksums is known from the first packet whose are right; until then nothing is damaged.
    """

    def __init__(self) -> None:
        self._seen = False

    def are_wrong(self, packet: bytes) -> bool:
        """Whether a packet is not what was encoded."""
        right = _is_right(packet)
        self._seen = self._seen or right
        return self._seen and not right


def _is_right(packet: bytes) -> bool:
    end = len(packet)
    while end >= _FOOTER:
        start = end - _FOOTER - int.from_bytes(packet[end - _FOOTER : end - _FOOTER + _SIZE])
        if start < 0 or _crc(packet[start:end]):
            return False
        end = start
    return end == 0 and len(packet) > 0


def _crc(data: bytes) -> int:
    """CRC-32 by the usual polynomial, but the highest bit first and without inversions: zlib's, mirrored."""
    return zlib.crc32(data.translate(_MIRRORED), _ONES) ^ _ONES
