"""Every fault that was once found, as a file of its kind: frames, colours, geometry and number of clips are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle.drive import Bench, bench, examine
from tests.oracle.rows import ROWS


@pytest.fixture(scope="module")
def machine() -> Iterator[Bench]:
    with bench() as made:
        yield made


_FAST = "libswscale's own ways differ between the decoders"
WAITING = {
    **{f"1 columns {size}": _FAST for size in ("500x500 at 256", "404x720 at 64", "178x218 at 128")},
    **{f"1 columns {size}": _FAST for size in ("180x320 at 64", "100x100 at 64")},
    **{f"h {what}": _FAST for what in ("fast mpeg2", "fast h264", "chroma place", "ten bit")},
    **{f"h interlaced {codec}": _FAST for codec in ("mpeg2", "h264")},
    **{f"h crop {what}": "crops" for what in ("h264", "Matroska")},
    **{f"g grey {what}": "limited range" for what in ("ffv1 10 bit", "ffv1", "hevc")},
}
"""Rows that are not right yet, and what is missing."""


def _rows() -> list[object]:
    waits = {name: [pytest.mark.xfail(strict=True, reason=why)] for name, why in WAITING.items()}
    return [pytest.param(name, id=name.replace(" ", "-"), marks=waits.get(name, [])) for name in ROWS]


@pytest.mark.parametrize("name", _rows())
def test_row(name: str, machine: Bench, tmp_path: Path) -> None:
    found = examine(ROWS[name](tmp_path), machine)
    assert [(item.how, *item.fault) for item in found] == []
