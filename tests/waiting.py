"""Waiting for a condition: with much patience, because a busy machine is no finding."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

PATIENCE = 200.0


def wait_until(done: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Returns as soon as the condition holds.

    Raises:
        AssertionError: it does not come to hold.
    """
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.01)


class Children:
    """The processes that this one starts through `multiprocessing` from here on; not what other tests have left."""

    def __init__(self) -> None:
        self._before = set(multiprocessing.active_children())

    def alive(self) -> list[BaseProcess]:
        return [child for child in multiprocessing.active_children() if child not in self._before]

    def wait_for_their_end(self) -> None:
        """Returns when none is left; torch lets a worker that is slow to end do so by itself."""
        wait_until(lambda: not self.alive())
