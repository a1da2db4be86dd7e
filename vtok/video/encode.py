"""Frames to compressed files: H.264 through the ffmpeg program, GIF through Pillow. Equal frames give equal bytes."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import ffmpeg
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from schemas.errors import VtokError
from vtok.files import write_bytes
from vtok.video.ffmpeg import PROTOCOLS, ffmpeg_binary


def encode_h264(frames_thwc: UInt8[np.ndarray, "t h w 3"], fps: float, crf: int) -> bytes:
    """An mp4 of RGB frames: x264 veryfast, one thread, no clock or version in the bytes.

    Args:
        frames_thwc: RGB; sides of any size (4:2:0 where both are even, 4:4:4 else).
        fps: frames per second.
        crf: x264's constant rate factor, lower is better.

    Raises:
        VtokError: there is no ffmpeg, or it fails.
    """
    _, height, width, _ = frames_thwc.shape
    even = height % 2 == 0 and width % 2 == 0
    with tempfile.TemporaryDirectory(prefix="vtok-") as folder:
        path = Path(folder) / "clip.mp4"  # the mp4 muxer has to seek
        source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=repr(fps))
        command = source.output(
            str(path),
            vcodec="libx264",
            preset="veryfast",
            crf=crf,
            pix_fmt="yuv420p" if even else "yuv444p",
            threads=1,
            fflags="+bitexact",
            flags="+bitexact",
            map_metadata=-1,
            movflags="+faststart",
        ).global_args("-nostdin", "-loglevel", "error", "-protocol_whitelist", PROTOCOLS)
        try:
            command.run(
                cmd=ffmpeg_binary(),
                input=np.ascontiguousarray(frames_thwc).tobytes(),
                capture_stdout=True,
                capture_stderr=True,
                overwrite_output=True,
            )
        except ffmpeg.Error as error:
            text = error.stderr.decode(errors="replace").strip().splitlines()
            raise VtokError(
                f"ffmpeg cannot encode H.264: {text[-1] if text else error}", hint="see `vtok doctor`"
            ) from None
        return path.read_bytes()


def write_mp4(path: str | Path, frames_thwc: UInt8[np.ndarray, "t h w 3"], fps: float, crf: int = 18) -> None:
    """Writes an mp4 atomically; see `encode_h264`."""
    write_bytes(path, encode_h264(frames_thwc, fps, crf))


def write_gif(path: str | Path, frames_thwc: UInt8[np.ndarray, "t h w 3"], fps: float) -> None:
    """Writes a looping GIF atomically.

    Args:
        path: where.
        frames_thwc: RGB.
        fps: frames per second; GIF keeps hundredths of a second.
    """
    pictures = [Image.fromarray(frame).quantize(colors=256, dither=Image.Dither.NONE) for frame in frames_thwc]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=False
    )
    write_bytes(path, buffer.getvalue())
