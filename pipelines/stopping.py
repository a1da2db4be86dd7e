"""Ctrl-C and SIGTERM (a scheduler's preemption) end a job cleanly: workers are ended, finished parts are kept.

Both become one KeyboardInterrupt, which the command line turns into exit code 130. A second signal during the cleanup
changes nothing: the cleanup takes a few seconds, and cut short it would leave processes behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt in the block; what follows until its end is ignored."""
    stopped = False

    def stop(signum: int, frame: Any) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    with _handled(stop):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """A signal that comes in the block raises KeyboardInterrupt at its end."""
    came = False

    def note(signum: int, frame: Any) -> None:
        nonlocal came
        came = True

    with _handled(note):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[Callable[[], None]]:
    """Signals that come in the block are ignored; for cleaning up. Gives what puts the handlers in place again."""

    def ignore(signum: int, frame: Any) -> None:
        return

    def hold() -> None:
        for number in _SIGNALS:
            signal.signal(number, ignore)

    with _handled(ignore):
        yield hold


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
