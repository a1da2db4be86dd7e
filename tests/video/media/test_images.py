"""The order of frames, and runs of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtok.video.errors import VideoError
from vtok.video.media.images import expand_run, frame_key, frame_names, next_name, split_name


def tats_order(names: list[str]) -> list[str]:
    """As TATS's FrameDataset sorts: by the whole number after the last underscore of the stem."""
    return sorted(names, key=lambda name: int(Path(name).stem.split("_")[-1]))


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.png" for i in range(8, 13)],
        [f"v_{i}.jpg" for i in (1, 2, 9, 10, 11, 100, 1000)],
        [f"-0_9a_frames_{i:08d}.jpg" for i in range(95, 105)],
        ["b_1.png", "a_2.png", "c_3.png", "a_10.png"],  # the number counts before the name
        ["s2_08.png", "s10_09.png", "s1_10.jpg"],
        ["x_0099.png", "x_100.png", "x_0101.png"],
    ],
)
def test_the_order_is_that_of_tats(names: list[str]) -> None:
    turned = [*names[2:], *names[:2]]
    assert sorted(turned, key=frame_key) == tats_order(turned) == names


def test_the_order_where_tats_has_none() -> None:
    names = ["img.png", "frame9_left.png", "frame10_left.png", "frame-11.png", "2 (12).png", "x13.0.5.png"]
    expected = ["img.png", "x13.0.5.png", "frame9_left.png", "frame10_left.png", "frame-11.png", "2 (12).png"]
    assert sorted(names, key=frame_key) == expected


def test_folders_keep_their_images_only(tmp_path: Path) -> None:
    for name in ("2.png", "10.JPG", "1.jpeg", ".3.png", "4.png.part", "notes.txt"):
        (tmp_path / name).touch()
    assert frame_names(tmp_path, None) == ["1.jpeg", "2.png", "10.JPG"]
    with pytest.raises(VideoError, match="no_frames"):
        frame_names(Path(__file__).parent, None)
    with pytest.raises(VideoError, match="vanished"):
        frame_names(tmp_path / "gone", None)


def test_runs() -> None:
    assert expand_run("a_1.png..a_3.png") == ["a_1.png", "a_2.png", "a_3.png"]
    assert expand_run("a_008.png..a_010.png") == ["a_008.png", "a_009.png", "a_010.png"]
    assert expand_run("9.png..11.png") == ["9.png", "10.png", "11.png"]
    assert expand_run("x..y_1.png..x..y_2.png") == ["x..y_1.png", "x..y_2.png"]
    assert expand_run("img.png..img.png") == ["img.png"]
    assert expand_run("1_v2b.png..1_v3b.png") == ["1_v2b.png", "1_v3b.png"]
    for item in ("a_1.png", "a_1.png..b_2.png", "a_1.png..a_2.jpg", ""):
        with pytest.raises(VideoError, match="changed"):
            expand_run(item)


def test_the_next_name_keeps_the_zeros() -> None:
    assert next_name(split_name("a_0099.png")) == split_name("a_0100.png")
    assert next_name(split_name("a_99.png")) == split_name("a_100.png")
    assert next_name(split_name("a_9.png")) != split_name("a_10.jpg")
    assert next_name(split_name("a_09.png")) != split_name("a_010.png")
