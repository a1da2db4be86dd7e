from __future__ import annotations

import numpy as np
import pytest

from vtok.video.preview import contact_sheet, grid_frames, side_by_side


def _clip(value: int, count: int = 4) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] + np.full((count, 8, 12, 3), value, np.uint8)


def test_grid() -> None:
    grid = grid_frames([_clip(10), _clip(20), _clip(30, 2)], columns=2, pad=3)
    assert grid.shape == (4, 8 * 2 + 3, 12 * 2 + 3, 3)
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[2, :8, :12], _clip(10)[2])
    np.testing.assert_array_equal(grid[2, :8, 15:], _clip(20)[2])
    np.testing.assert_array_equal(grid[3, 11:, :12], _clip(30, 2)[1])  # a shorter clip keeps its last frame
    assert (grid[:, 11:, 15:] == 255).all()
    assert (grid[:, 8:11] == 255).all()


def test_side_by_side() -> None:
    both = side_by_side([_clip(10), _clip(20)], [_clip(110), _clip(120)])
    assert both.shape == (4, 18, 26, 3)
    np.testing.assert_array_equal(both[:, :8, :12], _clip(10))
    np.testing.assert_array_equal(both[:, 10:, 14:], _clip(120))


def test_contact_sheet() -> None:
    sheet = contact_sheet([_clip(0, 5), _clip(100, 5)], ["first clip", "second clip"], columns=5)
    pixels = np.asarray(sheet)
    assert sheet.mode == "RGB"
    assert pixels.shape[1] == 5 * 12
    row = pixels.shape[0] // 2
    np.testing.assert_array_equal(pixels[row - 8 : row, 24:36], _clip(0, 5)[2])
    np.testing.assert_array_equal(pixels[-8:, -12:], _clip(100, 5)[4])
    assert (pixels[: row - 8] < 128).any()  # the caption
    one = contact_sheet([_clip(0, 1)], ["one frame"], columns=4)
    assert one.size[0] == 48


def test_a_label_is_needed_for_every_clip() -> None:
    with pytest.raises(ValueError):
        contact_sheet([_clip(0), _clip(1)], ["only one"])
