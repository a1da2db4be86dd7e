"""Frames come upright whatever the display matrix says: the truth is where the matrix puts every pixel."""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.making import pinned_ffmpeg
from vtok.video.analysis import analyse
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips, read_video
from vtok.video.media.sequence import Opened
from vtok.video.orientation import Orientation, from_matrix
from vtok.video.probe import probe
from vtok.video.transforms import resize_crop_uint8

_HEIGHT, _WIDTH, _ONE = 64, 96, 1 << 16
EIGHT = [m for m in itertools.product((-1, 0, 1), repeat=4) if m.count(0) == 2 and m[0] * m[3] != m[1] * m[2]]


def _picture() -> np.ndarray:
    """Grey, with no symmetry: one corner white, one dark, a bar off the middle."""
    picture = np.full((_HEIGHT, _WIDTH), 128, np.uint8)
    picture[:16, :24], picture[-16:, :24], picture[24:32, 40:88] = 255, 30, 200
    return picture


def write_turned(path: Path, matrix: tuple[float, ...] | None, picture: np.ndarray | None = None) -> Path:
    """An MP4 of three such pictures, lossless; (a, b, c, d) is written over the track header's matrix."""
    picture = _picture() if picture is None else picture
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.options = _HEIGHT, _WIDTH, "yuv444p", {"qp": "0"}
        stream.codec_context.color_range = 2
        for number in range(3):
            frame = av.VideoFrame(_WIDTH, _HEIGHT, "yuv444p")
            for plane, values in zip(frame.planes, (picture, *[np.full_like(picture, 128)] * 2), strict=True):
                plane.update(np.pad(values, ((0, 0), (0, plane.line_size - _WIDTH))).tobytes())
            frame.color_range, frame.pts = 2, number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if matrix is not None:
        data = bytearray(path.read_bytes())
        a, b, c, d = (round(x * _ONE) for x in matrix)
        struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


def _shown(picture: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Every pixel where the matrix puts it."""
    a, b, c, d = matrix
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((down.max() + 1, across.max() + 1), np.uint8)
    shown[down, across] = picture
    return shown


@pytest.mark.parametrize("matrix", EIGHT, ids=str)
def test_eight_orientations_are_exact(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    assert len(EIGHT) == 8
    path = write_turned(tmp_path / "a.mp4", matrix)
    wanted = np.repeat(_shown(_picture(), matrix)[..., None], 3, axis=2)
    facts, spans = probe(path), [ClipSpan(0, 1, 0, 3 / 25, None, 3)]
    assert (facts.height, facts.width, facts.tilt) == (*wanted.shape[:2], None)
    np.testing.assert_array_equal(read_video(path)[1], wanted)
    for decoder in ("pyav", "ffmpeg"):
        clip = dict(decode_clips(path, facts, spans, resolution=32, decoder=decoder))[0]
        np.testing.assert_array_equal(clip[2], resize_crop_uint8(wanted[None], 32)[0])
        box = (4, 8, 60, 50)  # inside of both shapes
        clip = dict(decode_clips(path, facts, spans, resolution=32, decoder=decoder, bbox=box))[0]
        np.testing.assert_array_equal(clip[0], resize_crop_uint8(wanted[None, 8:50, 4:60], 32)[0])
        fast = dict(decode_clips(path, facts, spans, resolution=32, decoder=decoder, policy="fast"))[0]
        assert np.abs(fast[0].astype(int) - resize_crop_uint8(wanted[None], 32)[0]).mean() < 6


@pytest.mark.parametrize("matrix", EIGHT, ids=str)
def test_the_ffmpeg_program_shows_the_same(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = write_turned(tmp_path / "a.mp4", matrix)
    command = [pinned_ffmpeg(), "-loglevel", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo"]
    said = subprocess.run([*command, "-pix_fmt", "gray", "-"], capture_output=True, check=True).stdout
    ours = read_video(path, num_frames=1)[0, ..., 0]
    assert np.abs(np.frombuffer(said, np.uint8).reshape(ours.shape).astype(int) - ours).max() <= 1


@pytest.mark.parametrize("matrix", EIGHT, ids=str)
def test_bars_are_found_in_the_upright_picture(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    picture = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    picture[:, 12:85] = 200  # 12 columns of black before it, 11 behind
    path = write_turned(tmp_path / "a.mp4", matrix, picture)
    down, across = np.nonzero(_shown(picture, matrix))
    wanted = (across.min(), down.min(), across.max() + 1, down.max() + 1)
    assert analyse(Opened(path, None, None), probe(path), bars=True).picture == wanted


@pytest.mark.parametrize(
    ("degrees", "mirrored", "rotation", "tilt"),
    [
        (30, False, 0, 30.0),
        (50, False, 90, -40.0),
        (-100, False, 270, -10.0),
        (90.2, False, 90, 0.0),
        (20, True, 0, 20.0),
    ],
)
def test_other_angles_become_the_nearest_right_one(degrees: float, mirrored: bool, rotation: int, tilt: float) -> None:
    """Counter-clockwise on a screen whose y points down, after a flip from left to right."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = -1 if mirrored else 1
    assert from_matrix(across * cos, -across * sin, sin, cos) == Orientation(rotation, mirrored, tilt)


def test_a_tilted_file_says_so(tmp_path: Path) -> None:
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    path = write_turned(tmp_path / "a.mp4", (cos, -sin, sin, cos))
    facts = probe(path)
    assert (facts.rotation, facts.tilt) == (0, pytest.approx(30, abs=0.1))
    np.testing.assert_array_equal(read_video(path)[0, ..., 0], _picture())


def test_a_matrix_without_a_plane_is_none(tmp_path: Path) -> None:
    assert from_matrix(0, 0, 0, 0) == Orientation()
    assert probe(write_turned(tmp_path / "a.mp4", None)).mirrored is False
