"""The process of a decoding child, as its parent sees it: what it says, what it complains of, and how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtok.video.child_wire import write_message

_WORDS_KEPT = 8192  # bytes of the end of its standard error
_LAST_SECONDS = 10.0  # that a child that closed its pipe may take to end: Python's exit, on a busy machine


class ChildProcess:
    """A running child: it leads a process group of its own.

    Args:
        command: what runs.
        handles: file descriptors that it inherits.
    """

    def __init__(self, command: Sequence[str], handles: Sequence[int]) -> None:
        self._popen = subprocess.Popen(
            command,
            pass_fds=handles,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._popen.stdin is not None and self._popen.stdout is not None and self._popen.stderr is not None
        self._in, self._out, self._errors = self._popen.stdin, self._popen.stdout, self._popen.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._complains, self._words = True, b""

    @property
    def pid(self) -> int:
        """Its process ID, and that of its group."""
        return self._popen.pid

    @property
    def words(self) -> str:
        """The end of what it has written to its standard error."""
        return self._words.decode("utf-8", "replace").strip()

    def is_there(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def write(self, message: dict[str, Any]) -> None:
        """Sends a message.

        Raises:
            BrokenPipeError: it has ended.
        """
        write_message(self._in, message)

    def read(self, size: int, patience: Patience) -> memoryview:
        """The next `size` bytes that it says.

        Raises:
            EOFError: it closed its pipe.
            TimeoutError: they do not come.
        """
        data, done = np.empty(size, np.uint8).data, 0
        while done < size:
            self._wait(patience)
            count = os.readv(self._out.fileno(), [data[done:]])
            if not count:
                raise EOFError
            done += count
        return data

    def _wait(self, patience: Patience) -> None:
        """Until it says something; what it complains of meanwhile is kept, so that it never waits for a reader."""
        while True:
            handles = [self._out, self._errors] if self._complains else [self._out]
            ready = patience.select(handles)
            if self._errors in ready:
                self._listen()
            if self._out in ready:
                return

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._errors.fileno(), _WORDS_KEPT):
                self._words = (self._words + data)[-_WORDS_KEPT:]
            self._complains = False

    def exit_code(self) -> int | None:
        """How it ended, of one that has closed its pipe (negative: the signal). None: it did not, until it was killed.

        A Python that ends with an exception closes its pipe well before it is gone: killed in between, it would be
        taken for one that the kernel killed.
        """
        ended, deadline = self._has_ended(), time.monotonic() + _LAST_SECONDS
        while not ended and time.monotonic() < deadline:
            time.sleep(0.002)
            ended = self._has_ended()
        self._kill_group()
        code = self._popen.wait()
        self._listen()
        return code if ended else None

    def _has_ended(self) -> bool:
        """Without reaping it, so that the number of its group stays its own."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """Ends it, and the ffmpeg that it may be running."""
        self._kill_group()
        self._popen.wait()
        self._listen()
        for pipe in (self._in, self._out, self._errors):
            with contextlib.suppress(BrokenPipeError):  # what it was not sent any more
                pipe.close()

    def _kill_group(self) -> None:
        if self._popen.returncode is None:  # not reaped yet, so the number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


class Patience:
    """Seconds that may be spent waiting for a child; what its parent does between two waits does not count."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def select(self, handles: Sequence[Any]) -> list[Any]:
        """Those that have something to read, as soon as there is one.

        Raises:
            TimeoutError: all the seconds are spent.
        """
        started = time.monotonic()
        ready, _, _ = select.select(handles, [], [], max(0.0, self._left))
        self._left -= time.monotonic() - started
        if not ready:
            raise TimeoutError
        return list(ready)
