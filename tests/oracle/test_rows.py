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


MORE = {
    *(
        "2 wrap after 6 s",
        "2 wrap after 59.9 s",
        "r edit inside a frame",
        "r edit inside a frame mov",
        "b jump ts hevc",
    ),
    *("b jump m2ts", "b jump vob", "b jump ts mpeg2", "1 columns 404x720 at 64", "1 columns 226x400 at 226"),
    *("d packet mkv", "d half a packet mp4", "d half a packet avi", "d packet avi h264", "s last frame asf"),
    *("m open gop hevc ts", "m open gop mkv", "m open gop mpg", "m open gop mpeg4 avi", "i h264 avi reordered"),
    *("j tiny mpeg2 mpg", "j tiny mpeg1 mpg", "j mpeg1 mpg", "j mpeg2 asf", "h fast mpeg2", "q mpeg1 under mpg"),
}
"""Second and third examples of a kind, kept for `make soak`."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in MORE)) for name in ROWS])
def test_row(name: str, machine: Bench, tmp_path: Path) -> None:
    found = examine(ROWS[name](tmp_path), machine)
    assert [(item.how, *item.fault) for item in found] == []
