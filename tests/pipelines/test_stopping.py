"""Signals: the first one interrupts, later ones do not disturb the cleanup."""

from __future__ import annotations

import os
import signal

import pytest

from pipelines.stopping import deferred, stoppable, undisturbed

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@BOTH
def test_the_first_signal_interrupts_and_the_cleanup_is_left_alone(number: int) -> None:
    before = signal.getsignal(number)
    cleaned = []

    def work() -> None:
        with stoppable():
            try:
                send(number)
            finally:
                send(signal.SIGINT)
                send(signal.SIGTERM)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned
    assert signal.getsignal(number) is before


@BOTH
def test_a_deferred_signal_interrupts_at_the_end(number: int) -> None:
    reached = []

    def work() -> None:
        with deferred():
            send(number)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached
    with deferred():
        pass


@BOTH
def test_cleaning_up_is_undisturbed(number: int) -> None:
    with undisturbed():
        send(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
