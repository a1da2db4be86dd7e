"""The ffmpeg program as a child process: what it says, and its end."""

from __future__ import annotations

import subprocess
import threading
from typing import IO

_TAIL = 4096  # bytes of ffmpeg's messages that are kept


class Messages:
    """Empties ffmpeg's stderr in a thread, so that it never blocks; keeps the end of it.

    Args:
        stream: its stderr.
    """

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        if self._stream is not None:
            with self._stream as stream:
                while block := stream.read(_TAIL):
                    self._kept = (self._kept + block)[-_TAIL:]

    def join(self) -> None:
        """Waits, a little, for the end of the messages."""
        self._thread.join(timeout=5)

    def text(self) -> str:
        """The end of what it said."""
        self.join()
        return self._kept.decode("utf-8", "replace")


def first_line(said: str) -> str:
    """ffmpeg's first message without the addresses of its objects, which differ from run to run."""
    lines = [line for line in said.splitlines() if line.strip()]
    if not lines:
        return ""
    text = lines[0]
    while text.startswith("[") and "]" in text:
        text = text.partition("]")[2].strip()
    return text[:200]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the program if it still runs, and collects it."""
    if process.poll() is None:
        process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
