"""Reads ahead in a thread: what is made and what is used overlap, within a bound on the bytes in between."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def read_ahead(items: Iterator[_T], size: Callable[[_T], int], limit: int) -> Generator[_T, None, None]:
    """The items in their order, made by a thread of their own.

    The thread waits while the items that nobody has taken yet are `limit` bytes or more, so that at most one item goes
    beyond it. It ends with the generator, wherever that is left: close it, or use it up.

    Args:
        items: made in the thread; closed there if it is a generator.
        size: bytes of an item.
        limit: bytes that may wait.

    Raises:
        BaseException: whatever `items` raises, after the items before it.
    """
    waiting: deque[tuple[_T, int]] = deque()
    changed = threading.Condition()
    held, finished, left = 0, False, False
    failures: list[BaseException] = []

    def make() -> None:
        nonlocal held, finished
        try:
            for item in items:
                weight = size(item)
                with changed:
                    waiting.append((item, weight))
                    held += weight
                    changed.notify_all()
                    while held >= limit and not left:
                        changed.wait()
                    if left:
                        return
        except BaseException as error:  # it belongs to whoever uses the items
            failures.append(error)
        finally:
            if isinstance(items, Generator):
                items.close()
            with changed:
                finished = True
                changed.notify_all()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                while not waiting and not finished:
                    changed.wait()
                if not waiting:
                    break
                item, weight = waiting.popleft()
                held -= weight
                changed.notify_all()
            yield item
    finally:
        with changed:
            left = True
            changed.notify_all()
        thread.join()
    if failures:
        raise failures[0]
