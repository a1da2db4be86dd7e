"""Drawn files through both decoders and policies; and that the oracle sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.oracle.check import Looker
from tests.oracle.draw import draw
from tests.oracle.drive import bench, examine
from tests.oracle.picture import TURNS, Colours, Picture, turned
from tests.oracle.truth import Truth

SEED = 11


def _faults(files: range, folder: Path) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    with bench() as machine:
        for number in files:
            case = draw(SEED, number, folder)
            found += [(str(number), case.name, item.how, *item.fault) for item in examine(case, machine)]
            case.path.unlink()
    return found


def test_drawn_files(tmp_path: Path) -> None:
    assert _faults(range(12), tmp_path) == []


@pytest.mark.soak
def test_many_drawn_files(tmp_path: Path) -> None:
    assert _faults(range(12, 512), tmp_path) == []


def _shown(picture: Picture, number: int) -> np.ndarray:
    return np.rint(picture.expected(number)).astype(np.uint8)[picture.labels]


@pytest.mark.parametrize("size", [(64, 90), (48, 33), (20, 70), (7, 30)])
def test_it_sees_what_is_wrong(size: tuple[int, int]) -> None:
    picture = Picture(*size)
    looker = Looker(Truth(picture, [3, 4, 5], []), None)
    right = _shown(picture, 4)
    assert looker.fault(right, 4) is None

    def kind(frame: np.ndarray) -> str:
        fault = looker.fault(frame, 4)
        assert fault is not None
        return fault.kind

    assert kind(_shown(picture, 5)) == "frame"
    assert kind(right[:-1]) == "geometry"
    spoilt = right.copy()
    spoilt[:, -1] ^= 0x55
    assert kind(spoilt) == "columns"
    limited = (16 + right.astype(float) * 219 / 255).astype(np.uint8)
    assert kind(limited) == "colour"
    if min(size) >= 16:
        assert kind(turned(right, TURNS[2])) == "orientation"
        assert kind(np.roll(right, 1, 1)) in ("colour", "columns")


@pytest.mark.parametrize("turn", TURNS)
def test_turned_there_and_back(turn: tuple[int, int, int, int]) -> None:
    picture = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(turned(turned(picture, turn), turn, back=True), picture)


def test_codes_of_known_colours() -> None:
    """Values of ITU-R BT.601-7 and BT.709-6."""
    colours = np.array([[255.0, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]])
    assert Colours("bt601").codes(colours).tolist() == [[235, 128, 128], [16, 128, 128], [81, 90, 240], [41, 240, 110]]
    assert Colours("bt709").codes(colours)[2].tolist() == [63, 102, 240]
    assert Colours("bt709", full=True).codes(colours)[0].tolist() == [255, 128, 128]
    assert Colours("bt601", depth=10).codes(colours)[0].tolist() == [940, 512, 512]
    back = Colours("bt709").colours(Colours("bt709").codes(colours))
    assert np.abs(back - colours).max() < 1.5
