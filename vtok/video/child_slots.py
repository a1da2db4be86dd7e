"""Clips pass from a decoding child to its parent through two slots of shared memory.

A pipe hands every byte to the kernel and back, 64 KiB at a time, which costs a fifth of the time of decoding small
frames. Here the child writes a clip into a free slot and the message about it says which; the parent copies it out and
frees the slot, so that the child is at most two clips ahead. The memory has no name anywhere and goes with its last
process. Clips that are larger than a slot, and all of them where the system has no such memory, go through the pipe.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

_COUNT = 2
_LARGEST = 32 << 20  # bytes of a slot


class Slots:
    """One side's view of the memory; each side grows it to the same size before a request.

    Args:
        handles: file descriptors of the memory and of the count of free slots; None: there is none.
    """

    def __init__(self, handles: tuple[int, int] | None) -> None:
        self.handles = handles
        self.size = 0
        self._memory: mmap.mmap | None = None
        self._next = 0

    @classmethod
    def create(cls) -> Slots:
        """New memory, for the parent."""
        try:
            memory = os.memfd_create("vtok-clips", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (OSError, AttributeError):  # another system than Linux, or an old one
            return cls(None)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # a broken child cannot take it from its parent
        return cls((memory, os.eventfd(_COUNT, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)))

    @classmethod
    def inherited(cls, arguments: Sequence[str]) -> Slots:
        """The memory that `arguments` names, for the child."""
        return cls((int(arguments[0]), int(arguments[1])) if arguments else None)

    @property
    def arguments(self) -> list[str]:
        """What the child's command line needs."""
        return [str(handle) for handle in self.handles or ()]

    def grow(self, size: int) -> None:
        """Makes room for clips of `size` bytes, if they are not too large."""
        if self.handles is None or not self.size < size <= _LARGEST:
            return
        if os.fstat(self.handles[0]).st_size < _COUNT * size:
            os.ftruncate(self.handles[0], _COUNT * size)
        self._memory, self.size = mmap.mmap(self.handles[0], _COUNT * size), size

    def put(self, frames: UInt8[np.ndarray, "t h w 3"]) -> int | None:
        """Writes a clip into the next slot when that is free; the slot's number, or None if the clip does not fit."""
        if self.handles is None or not 0 < frames.nbytes <= self.size:
            return None
        os.eventfd_read(self.handles[1])
        number = self._next
        self._next = (number + 1) % _COUNT
        np.copyto(self._view(number, frames.shape), frames)
        return number

    def take(self, number: int, shape: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """Copies a clip out of its slot, and frees that."""
        assert self.handles is not None
        frames = self._view(number, shape).copy()
        os.eventfd_write(self.handles[1], 1)
        return frames

    def _view(self, number: int, shape: Sequence[int]) -> np.ndarray:
        assert self._memory is not None
        return np.ndarray(tuple(shape), np.uint8, self._memory, number * self.size)

    def close(self) -> None:
        """Gives the memory back."""
        for handle in self.handles or ():
            os.close(handle)
        self.handles, self._memory, self.size = None, None, 0
