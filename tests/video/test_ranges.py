"""Pixels survive the way to the models' range and back."""

from __future__ import annotations

import numpy as np

from vtok.video.ranges import to_model_range, to_pixels


def test_every_value_survives() -> None:
    videos = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 4, 4, 8, 3)
    scaled = to_model_range(videos)
    assert scaled.shape == (2, 3, 4, 4, 8) and scaled.dtype == np.float32 and scaled.flags.c_contiguous
    assert scaled.min() == -0.5 and scaled.max() == 0.5
    assert np.array_equal(to_pixels(scaled), videos)


def test_values_outside_the_range_are_clipped() -> None:
    video = np.array([-9.0, 9.0, 0.0], dtype=np.float32).reshape(1, 3, 1, 1, 1)
    assert to_pixels(video).reshape(-1).tolist() == [0, 255, 128]
