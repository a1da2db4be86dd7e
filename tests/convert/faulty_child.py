"""The process that reads a checkpoint, with a fault of ours in it."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from vtok.convert import child


def _transfer(*arguments: Any) -> NoReturn:
    raise ZeroDivisionError("no such number")


if __name__ == "__main__":
    child._transfer = _transfer
    sys.exit(child.main(sys.argv[1:]))
