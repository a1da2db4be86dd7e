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


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, machine: Bench, tmp_path: Path) -> None:
    found = examine(ROWS[name](tmp_path), machine)
    assert [(item.how, *item.fault) for item in found] == []
