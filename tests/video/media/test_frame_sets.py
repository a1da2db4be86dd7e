"""Which images of a folder belong together, and in which order."""

from __future__ import annotations

import random

import pytest

from vtok.video.media.frame_sets import frame_sets

FIVE = range(1, 6)


@pytest.mark.parametrize(
    ("videos", "others"),
    [
        ([[f"{i}.png" for i in range(8, 13)]], []),
        ([[f"rgb_{i:03d}.png" for i in FIVE], [f"depth_{i:03d}.png" for i in FIVE]], []),
        ([[f"{i:03d}.jpg" for i in FIVE], [f"{i:03d}.png" for i in FIVE]], []),
        ([[f"cam{c}_{i:03d}.png" for i in FIVE] for c in (1, 2, 10)], []),
        ([[f"{i}_left.png" for i in range(9, 12)], [f"{i}_right.png" for i in range(9, 12)]], []),
        ([[f"{i:04d}.jpg" for i in FIVE]], ["thumbnail.jpg"]),
        ([[f"{i:04d}.jpg" for i in FIVE]], ["cover.png", "thumbnail.jpg"]),
        ([[f"{i:04d}.jpg" for i in FIVE], ["thumb_0001.jpg"]], []),
        ([[f"{i:04d}.jpg" for i in FIVE], ["cover_500.jpg"]], []),
        ([["frame_0.5.png", "frame_1.25.png", "frame_2.0.png", "frame_10.125.png"]], []),
        ([["t0.04.jpg", "t0.08.jpg", "t0.12.jpg", "t1.png"]], []),
        ([["shot1.0008.png", "shot1.0009.png", "shot1.0010.png"]], []),
        ([[f"cam{c}.{i:04d}.png" for i in FIVE] for c in (1, 2)], []),
        ([["v1.8.png", "v1.9.png", "v1.10.png"]], []),
        ([["b_1.png", "a_2.png", "c_3.png", "a_10.png"]], []),
        ([["frame.png", "frame1.png", "frame2.png"]], []),
        ([["a.png", "b.png", "c.png"]], []),
        ([["1.jpeg", "2.jpg", "3.JPG", "4.png"]], []),
        ([["2021-05-09_0001.png", "2021-05-09_0002.png", "2021-05-10_0003.png"]], []),
    ],
)
def test_frames_that_belong_together(videos: list[list[str]], others: list[str]) -> None:
    names = [name for video in videos for name in video] + others
    random.Random(0).shuffle(names)
    found = frame_sets(names)
    assert sorted(found.videos.values()) == sorted(videos)
    assert found.others == others
    assert (None in found.videos) == (len(videos) == 1)


def test_items_name_what_they_hold() -> None:
    found = frame_sets([f"{kind}_{i:03d}.png" for kind in ("rgb", "depth") for i in FIVE])
    assert set(found.videos) == {"rgb_*.png", "depth_*.png"}
    assert frame_sets([]).videos == {}
