"""How threads wait for each other, which has to be said before torch is imported.

OpenMP's threads spin while they wait for the slowest of them. On a core that somebody else keeps busy that is the
slowest way there is: a training on two threads with one core taken ran at a sixth of its quiet speed, and at three
quarters of it when waiting threads sleep instead (`tests/bench/contention.py`). It changes no result: the same threads
do the same parts of the work.
"""

from __future__ import annotations

import os

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Read once, when the OpenMP library is loaded."""


def wait_passively() -> None:
    """Lets waiting threads of this process, and of those that it starts, sleep; what the user has set is kept.

    Without effect on this process if torch was imported before.
    """
    if PASSIVE.keys().isdisjoint(os.environ):
        os.environ.update(PASSIVE)
