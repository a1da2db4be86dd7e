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


def _shown(path: Path) -> list[tuple[int, int]]:
    """Pillow's account of a GIF: the number that each frame carries, and for how many ms it is shown."""
    with Image.open(path) as gif:
        found = []
        for number in range(gif.n_frames):
            gif.seek(number)
            found.append((numbers(np.asarray(gif.convert("RGB"))[None])[0], gif.info["duration"]))
        return found


def test_equal_neighbours_stay_in_a_gif(tmp_path: Path) -> None:
    wanted = [1, 1, 1, 2, 2]
    write_gif(tmp_path / "a.gif", np.stack([numbered_frame(n) for n in wanted]), 10.0)
    assert _shown(tmp_path / "a.gif") == [(n, 100) for n in wanted]
    assert numbers(read_video(tmp_path / "a.gif")) == wanted  # FFmpeg's account


@pytest.mark.parametrize("fps", [15.0, 30.0, 30000 / 1001, 24.0, 12.5, 60.0])
def test_a_gif_has_the_rate_that_was_asked_for(fps: float, tmp_path: Path) -> None:
    """Every frame begins within half a hundredth of a second of its time, so nothing adds up."""
    write_gif(tmp_path / "a.gif", np.stack([numbered_frame(n) for n in range(45)]), fps)
    shown = _shown(tmp_path / "a.gif")
    assert [number for number, _ in shown] == list(range(45))
    ends = np.cumsum([milliseconds for _, milliseconds in shown])
    assert np.abs(ends - np.arange(1, 46) * 1000 / fps).max() <= 5
    assert probe(tmp_path / "a.gif").frames == 45


def test_a_gif_keeps_colours(tmp_path: Path) -> None:
    """256 colours are exact, be they other ones in every frame; a still picture stays one."""
    frames = np.arange(256 * 3 * 3, dtype=np.int64).reshape(3, 16, 16, 3) % 256
    frames[..., 1] += np.array([0, 40, 80])[:, None, None]
    frames = frames.clip(0, 255).astype(np.uint8)
    write_gif(tmp_path / "a.gif", frames, 10.0)
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif"), frames)
    write_gif(tmp_path / "b.gif", np.full((4, 5, 7, 3), 44, np.uint8), 10.0)
    assert (read_video(tmp_path / "b.gif") == 44).all()


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(VtokError):
        write_mp4(tmp_path / "a.mp4", _smooth(3, 16, 16), 8.0)
    assert list(tmp_path.iterdir()) == []


def test_resized_frames_can_be_encoded() -> None:
    assert encode_h264(resize_crop_uint8(_smooth(3, 32, 40), 16), 8.0, 18)[4:8] == b"ftyp"
