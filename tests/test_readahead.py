"""A thread reads ahead: in order, within a bound, and it ends with whoever reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.waiting import wait_until
from vtok.readahead import read_ahead


def test_order_and_end() -> None:
    makers: set[threading.Thread] = set()

    def items(count: int) -> Iterator[int]:
        makers.add(threading.current_thread())
        yield from range(count)

    assert list(read_ahead(items(100), lambda _: 1, 3)) == list(range(100))
    assert list(read_ahead(items(0), lambda _: 1, 3)) == []
    assert len(makers) == 2 and not any(maker.is_alive() for maker in makers)


@pytest.mark.parametrize(("limit", "held"), [(3, 3), (1, 1), (35, 10)], ids=["three", "one", "all"])
def test_no_more_than_the_bound_waits(limit: int, held: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            begun.append(number)
            yield number

    ahead = read_ahead(items(), lambda _: 1, limit)
    assert next(ahead) == 0
    wait_until(lambda: len(begun) >= min(10, held + 1))
    time.sleep(0.05)
    assert len(begun) <= held + 1, "the one that was taken and those that wait"
    assert list(ahead) == list(range(1, 10))


def test_an_item_larger_than_the_bound_passes() -> None:
    assert list(read_ahead(iter([5, 50, 5]), lambda size: size, 10)) == [5, 50, 5]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second one")

    ahead = read_ahead(items(), lambda _: 1, 10)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second one"):
        next(ahead)


def test_leaving_early_ends_the_thread_and_closes_the_items() -> None:
    closed: list[threading.Thread] = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread())

    ahead = read_ahead(items(), lambda _: 1, 2)
    assert next(ahead) == 0
    ahead.close()
    assert len(closed) == 1 and closed[0] is not threading.current_thread() and not closed[0].is_alive()
