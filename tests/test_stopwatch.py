"""Seconds belong to the innermost phase."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vtok.stopwatch import Stopwatch


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("vtok.stopwatch.time", made)
    return made


def test_an_inner_phase_stops_the_outer_clock(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now = 5
    with watch.phase("write"):
        clock.now += 1
        with watch.phase("encode"):
            clock.now += 10
        clock.now += 2
    assert watch.take() == {"write": 3, "encode": 10}
    assert watch.take() == {}


def test_only_getting_items_is_counted(clock: Clock) -> None:
    def items() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            yield number
        clock.now += 0.5

    watch = Stopwatch()
    with watch.phase("write"):
        for _ in watch.each("decode", items()):
            clock.now += 4
    assert watch.take() == {"decode": 3.5, "write": 12}


def test_an_error_leaves_the_phase(clock: Clock) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.phase("a"), watch.phase("b"):
            clock.now += 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    clock.now += 7
    assert watch.take() == {"a": 0, "b": 1}
