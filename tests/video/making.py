"""Small videos for tests; every frame carries its own number, so that a wrong frame is noticed."""

from __future__ import annotations

import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

HEIGHT, WIDTH, BITS = 64, 96, 12
_REPOSITORY = Path(__file__).resolve().parents[2]


def pinned_ffmpeg() -> str:
    """The program that comes with pip. Inputs are made and judged by it, whichever one is under test."""
    (program,) = (Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg-*")
    return str(program)


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame whose columns spell its number in binary, black and white: it survives any codec and resize."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), width // BITS)
    row = np.pad(row, (0, width - len(row)), "edge")
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def numbers(frames_thwc: np.ndarray) -> list[int]:
    """The numbers of upright, uncropped frames (any size with the proportions of `numbered_frame`)."""
    found = []
    for frame in frames_thwc:
        middle = frame[frame.shape[0] // 2, :, 1].astype(int)
        centres = [int((bit + 0.5) * len(middle) / BITS) for bit in range(BITS)]
        found.append(sum(int(middle[centre] > 127) << bit for bit, centre in enumerate(centres)))
    return found


def write_video(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    fps: int = 25,
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """Frames 0 .. count-1; `stamps` are presentation times in ms (variable frame rate)."""
    defaults = {"libx264": {"preset": "veryfast"}, "mpeg4": {"qscale": "2"}}
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=1000 if stamps else fps)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *size, pix_fmt, gop
        stream.options = options if options is not None else defaults.get(codec, {})
        stream.codec_context.thread_count = 1
        if stamps:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run_ffmpeg(*arguments: object) -> None:
    """Runs the ffmpeg program; what it writes, it writes over."""
    command = [pinned_ffmpeg(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def write_audio(path: Path) -> Path:
    """A sound file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def real_clips() -> list[Path]:
    """Real videos in the folder that VTOK_VIDEOS names (default: ../shared/videos beside the repository)."""
    folder = Path(os.environ.get("VTOK_VIDEOS", _REPOSITORY.parent / "shared" / "videos"))
    return sorted(path for path in folder.glob("*") if path.suffix in {".mp4", ".mkv", ".mov", ".avi", ".webm"})


needs_real_clips = pytest.mark.skipif(not real_clips(), reason="no folder of real videos: set VTOK_VIDEOS")
