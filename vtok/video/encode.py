"""Frames to compressed files: H.264 through the ffmpeg program, GIF through Pillow. Equal frames give equal bytes."""

from __future__ import annotations

import io
import struct
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
    """Writes a looping GIF atomically: every frame, equal neighbours too, each with 256 colours of its own.

    Args:
        path: where.
        frames_thwc: RGB.
        fps: frames per second, up to 100. GIF keeps hundredths of a second, so the frames' times are rounded, not how
            long each is shown: 15 a second are shown for 7, 6 and 7 hundredths in turn. Browsers show none for less
            than 2.
    """
    ends = [round((number + 1) * 100 / fps) for number in range(len(frames_thwc))]
    _, height, width, _ = frames_thwc.shape
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x70, 0, 0), _LOOP]
    for frame, start, end in zip(frames_thwc, [0, *ends], ends, strict=False):
        parts += _gif_frame(frame, max(1, end - start))
    write_bytes(path, b"".join([*parts, b";"]))


_LOOP = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"


def _gif_frame(frame_hwc: UInt8[np.ndarray, "h w 3"], delay: int) -> list[bytes]:
    """A frame's blocks (GIF89a, 20 to 23); `delay` in hundredths of a second.

    Pillow, which finds the colours and packs them, merges equal frames: so it is given one at a time, and what it makes
    of it, a GIF with a table of colours for all frames, becomes a frame with a table of its own.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(frame_hwc).quantize(colors=256, dither=Image.Dither.NONE)
    picture.save(buffer, "GIF", interlace=0, optimize=False)
    data = buffer.getvalue()
    table = 13 + (3 << ((data[10] & 7) + 1))
    image = data.index(b",", table)  # behind the table come at most extensions, none of them with a comma
    x, y, width, height, _ = struct.unpack_from("<HHHHB", data, image + 1)
    return [
        b"!\xf9\x04" + struct.pack("<BHBB", 4, delay, 0, 0),
        b"," + struct.pack("<HHHHB", x, y, width, height, 0x80 | data[10] & 7),
        data[13:table],
        data[image + 10 : -1],
    ]
