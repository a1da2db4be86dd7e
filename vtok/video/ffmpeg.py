"""Which ffmpeg binary runs, and what any FFmpeg, binary or library, may open."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

from schemas.errors import VtokError

PROTOCOLS = "file,pipe"
"""A video may not make FFmpeg open a network address."""

DEMUXERS = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,gif,flv,asf,ogg,mxf,nut,"
    "yuv4mpegpipe,rm,dv"
)
"""Containers that are videos. Playlists (hls, concat, dash), which name other files, and text art are not."""

INPUT_OPTIONS = {"protocol_whitelist": PROTOCOLS, "format_whitelist": DEMUXERS}

_VARIABLE = "IMAGEIO_FFMPEG_EXE"
_HINT = f"install ffmpeg (Debian: apt-get install ffmpeg), or pip install imageio-ffmpeg, or set {_VARIABLE}"


def video_url(path: str | Path) -> str:
    """A name that FFmpeg takes for a local file whatever characters are in it (`a:b.mp4` is no protocol)."""
    return f"file:{Path(path).absolute()}"


def ffmpeg_binary() -> str:
    """Path of the ffmpeg program: IMAGEIO_FFMPEG_EXE, else `ffmpeg` on PATH, else the one that imageio-ffmpeg ships.

    Raises:
        VtokError: IMAGEIO_FFMPEG_EXE names no program, or there is none anywhere.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise VtokError(f"{_VARIABLE} names no program", at=named, hint=f"unset {_VARIABLE}, or correct it")
        return found
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise VtokError("there is no ffmpeg program", at="PATH", hint=_HINT) from None


def decoder_version(decoder: str) -> str:
    """`pyav` or `ffmpeg` with its version, for example `pyav 18.1.0`.

    Raises:
        VtokError: there is no ffmpeg program.
    """
    if decoder == "pyav":
        return f"pyav {importlib.metadata.version('av')}"
    said = subprocess.run([ffmpeg_binary(), "-version"], capture_output=True, text=True, check=False).stdout.split()
    return f"ffmpeg {said[2]}" if said[:2] == ["ffmpeg", "version"] else "ffmpeg"
