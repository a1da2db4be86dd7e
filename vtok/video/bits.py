"""Reads bits of video bitstreams: fixed lengths, and the exponential Golomb codes of H.264."""

from __future__ import annotations


class Bits:
    """A place in a few bytes of bitstream.

    Args:
        data: the bytes; reading past their end raises IndexError.
    """

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits as an unsigned number.

        Raises:
            IndexError: there are not as many.
        """
        self._left -= count
        if self._left < 0:
            raise IndexError("the header ends early")
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """The next unsigned exponential Golomb code (H.264, section 9.1).

        Raises:
            IndexError: the bits end within it.
        """
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        """The next signed exponential Golomb code.

        Raises:
            IndexError: the bits end within it.
        """
        code = self.golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)
