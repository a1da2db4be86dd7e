from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import VtokError
from tests.video.making import numbered_frame, numbers
from vtok.video.decode import read_video
from vtok.video.encode import encode_h264, write_gif, write_mp4
from vtok.video.probe import probe
from vtok.video.transforms import resize_crop_uint8


def _smooth(count: int, height: int, width: int) -> np.ndarray:
    y, x, t = np.meshgrid(np.arange(height), np.arange(width), np.arange(count), indexing="ij")
    frames = np.stack([x * 4 + t, y * 4 + t, 128 + 0 * x], -1).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames.transpose(2, 0, 1, 3))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63), (16, 16)])
def test_mp4_round_trip(height: int, width: int, tmp_path: Path) -> None:
    frames = _smooth(10, height, width)
    write_mp4(tmp_path / "a.mp4", frames, 12.5, crf=10)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    error = np.mean((back.astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 34
    assert probe(tmp_path / "a.mp4").fps == pytest.approx(12.5)


def test_every_frame_is_there_in_order(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", np.stack([numbered_frame(n) for n in range(37)]), 30000 / 1001)
    assert numbers(read_video(tmp_path / "a.mp4")) == list(range(37))


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frames = _smooth(8, 32, 32)
    assert encode_h264(frames, 8.0, 18) == encode_h264(frames.copy(), 8.0, 18)
    assert encode_h264(frames, 8.0, 18) != encode_h264(frames, 8.0, 30)
    for name in ("a", "b"):
        write_gif(tmp_path / f"{name}.gif", frames, 8.0)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_frames_that_are_not_contiguous() -> None:
    frames = _smooth(8, 32, 32)
    assert encode_h264(frames[::-1], 8.0, 18) == encode_h264(frames[::-1].copy(), 8.0, 18)


def test_gif(tmp_path: Path) -> None:
    frames = np.stack([numbered_frame(n) for n in range(9)])
    write_gif(tmp_path / "a.gif", frames, 10.0)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"], gif.info["duration"]) == (9, (96, 64), 0, 100)
    assert numbers(read_video(tmp_path / "a.gif")) == list(range(9))


def test_equal_neighbours_stay_in_a_gif(tmp_path: Path) -> None:
    frames = np.stack([numbered_frame(n) for n in (1, 1, 1, 2, 2)])
    write_gif(tmp_path / "a.gif", frames, 10.0)
    with Image.open(tmp_path / "a.gif") as gif:
        total = 0
        for number in range(gif.n_frames):
            gif.seek(number)
            total += gif.info["duration"]
    assert total == 500


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(VtokError):
        write_mp4(tmp_path / "a.mp4", _smooth(3, 16, 16), 8.0)
    assert list(tmp_path.iterdir()) == []


def test_resized_frames_can_be_encoded() -> None:
    assert encode_h264(resize_crop_uint8(_smooth(3, 32, 40), 16), 8.0, 18)[4:8] == b"ftyp"
