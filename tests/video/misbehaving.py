"""A decoding child that does what bad files make decoders do; the path says what. Run by tests as `python -m`."""

from __future__ import annotations

import os
import signal
import time
from typing import IO, Any

from vtok.video import child_server
from vtok.video.child_slots import Slots

_decent = child_server.answer


def _answer(request: dict[str, Any], sink: IO[bytes], slots: Slots) -> None:
    what = os.path.basename(request["path"])  # noqa: PTH119
    if what == "spin":
        while True:
            pass
    if what == "sleep":
        time.sleep(1000)
    if what == "eat":
        bytearray(64 << 30)
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(3)
    if what.startswith("raise"):
        raise AttributeError("'DataStream' object has no attribute 'width'")
    if what == "hang-up":  # as a Python does that ends with an exception: the pipe is closed before it is gone
        sink.close()
        time.sleep(0.3)
        os._exit(3)
    if what == "complain":
        os.write(2, b"the last word\n".rjust(1 << 20))
        os._exit(3)
    if what == "print":
        os.write(1, b"garbage from a C library" * 100)
    _decent({**request, "path": request["path"].removesuffix("/print")}, sink, slots)


if __name__ == "__main__":
    child_server.answer = _answer
    child_server.serve()
