"""A decoding child on a machine where decoding is broken as a whole; the argument that tests add says how."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

import av

from vtok.video import child_server, self_test


def _open(*arguments: Any, **options: Any) -> NoReturn:
    """PyAV 19, as vtok of November 2026 called it."""
    raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _wrong() -> None:
    self_test._LEVELS = (0, 70, 140, 200)
    _decent()


_decent = self_test.check_decoding

if __name__ == "__main__":
    how = os.environ["VTOK_TEST_BROKEN"]
    if how == "raises":
        av.open = _open
    child_server.check_decoding = {"raises": _decent, "crashes": _crash, "lies": _wrong}[how]
    child_server.serve()
