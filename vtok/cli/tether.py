"""Runs a command that ends when the process that started it does, even if that one is killed.

`python tether.py PARENT SIGNAL COMMAND ...` becomes the command after it has asked the kernel for SIGNAL at its
parent's death (https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html), which `exec` keeps. Where there is
no such thing (macOS), it just becomes the command. It is a program of its own, and imports next to nothing, because
what runs between fork and exec of a process with threads may deadlock.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, signal: int, command: list[str]) -> None:
    """Becomes `command`, unless the parent is gone already."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the kernel was asked: nobody would send that signal any more
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
