"""Every pixel that libswscale is asked for is there, and has the colour that the standards say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Interpolation

from tests.video.poisoned import noise, white
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips, read_video
from vtok.video.geometry import Geometry
from vtok.video.pixels import Converter
from vtok.video.probe import probe

_ROOT = Path(__file__).resolve().parents[2]


def test_white_is_white_in_every_column_whatever_the_memory_held() -> None:
    """All widths from 2 to 140, even and odd heights, 16 pixel formats, all policies, under two kinds of junk."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.video.poisoned"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**os.environ, "MALLOC_PERTURB_": poison, "PYTHONPATH": str(_ROOT)},
        )
        for poison in ("90", "17")
    ]
    said = [process.communicate()[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0][:-1] == []  # a line for everything that is not white
    assert len(said[0][-1]) == hashlib.sha256().digest_size * 2
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv422p"])
def test_a_widened_frame_has_the_colours_of_the_narrow_one(name: str) -> None:
    """libswscale's rgb24, which leaves nothing out at even widths, is the truth."""
    random = np.random.default_rng(1)
    for width in range(2, 70, 2):
        frame = noise(name, 24, width, random)
        ranges = {"src_color_range": ColorRange.JPEG if "j" in name else ColorRange.MPEG}
        ranges["dst_color_range"] = ColorRange.JPEG
        plain = frame.reformat(format="rgb24", interpolation=Interpolation.BILINEAR, **ranges).to_ndarray()
        for geometry in (Geometry(0, None, "reference", 1 << 20), Geometry(0, min(24, width), "fast", 1 << 20)):
            made = geometry.finish(Converter(geometry)(frame))
            if geometry.resolution is not None:
                side = geometry.resolution
                top, left = (24 - side) // 2, (width - side) // 2
                np.testing.assert_array_equal(made, plain[top : top + side, left : left + side])
            else:
                np.testing.assert_array_equal(made, plain)


def _truth(luma: int, cb: int, cr: int, *, full: bool) -> np.ndarray:
    """BT.601, 8 bits."""
    y = luma / 255 if full else (luma - 16) / 219
    b, r = ((c - 128) / (255 if full else 224) for c in (cb, cr))
    rgb = np.array([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b])
    return np.clip(255 * rgb, 0, 255)


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le"])
def test_flat_colours_are_right_at_any_size(name: str) -> None:
    """Within half a level wherever the scaler works; its fast converter (8-bit, even height, own size) within three."""
    random = np.random.default_rng(2)
    deep, full = "10" in name, "yuvj" in name
    for colour in [(235, 128, 128), (16, 128, 128), *random.integers(16, 240, (40, 3)).tolist()]:
        wanted = _truth(*colour, full=full)
        for height, width, resolution in ((36, 50, 24), (37, 50, 24), (36, 51, 37), (36, 36, 36), (48, 96, 17)):
            frame = av.VideoFrame(width, height, name)
            for plane, value in zip(frame.planes, colour, strict=True):
                kind = np.uint16 if deep else np.uint8
                plane.update(np.full(plane.buffer_size // kind().itemsize, value << 2 * deep, kind).tobytes())
            for policy in ("reference", "fast"):
                geometry = Geometry(0, resolution, policy, 1 << 20)
                off = np.abs(geometry.finish(Converter(geometry)(frame)) - wanted).max()
                exact = deep or name == "yuv444p" or height % 2 or (policy == "fast" and resolution != height)
                assert off <= (0.51 if exact else 3), (policy, height, width, resolution, colour)


def _write(path: Path, frames: list[av.VideoFrame]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = frames[0].height, frames[0].width, frames[0].format.name
        for number, frame in enumerate(frames):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_both_decoders_give_every_column(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for height, width in ((36, 36), (64, 18), (37, 50), (100, 100), (64, 51)):
        path = _write(tmp_path / "a.mkv", [white(name, height, width), noise(name, height, width, random)])
        facts, spans = probe(path), [ClipSpan(0, 1, 0, 2 / 25, None, 2)]
        whole = read_video(path)
        assert whole.shape == (2, height, width, 3)
        assert (whole[0] == 255).all()
        for policy in ("reference", "fast"):
            for resolution in (min(height, width), 16):
                clips = []
                for decoder in ("pyav", "ffmpeg"):
                    options = {"resolution": resolution, "policy": policy, "decoder": decoder}
                    clips.append(dict(decode_clips(path, facts, spans, **options))[0])
                    assert (clips[-1][0] == 255).all()
                np.testing.assert_array_equal(*clips)
