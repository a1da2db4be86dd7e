"""Which ffmpeg binary runs, and what any FFmpeg, binary or library, may open."""

from __future__ import annotations

import functools
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
_HINT = f"pip install imageio-ffmpeg, or install ffmpeg (Debian: apt-get install ffmpeg), or set {_VARIABLE}"


def video_url(path: str | Path) -> str:
    """A name that FFmpeg takes for a local file whatever characters are in it (`a:b.mp4` is no protocol)."""
    return f"file:{Path(path).absolute()}"


def ffmpeg_binary() -> str:
    """Path of the ffmpeg program: IMAGEIO_FFMPEG_EXE, else the one that imageio-ffmpeg ships, else `ffmpeg` on PATH.

    The shipped one goes before PATH because its version is pinned and the program belongs to the result:
    a distribution's is years older, knows fewer options and gives other bytes.

    Raises:
        VtokError: IMAGEIO_FFMPEG_EXE names no program, or there is none anywhere.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise VtokError(f"{_VARIABLE} names no program", at=named, hint=f"unset {_VARIABLE}, or correct it")
        return found
    found = shutil.which(_shipped() or "ffmpeg")
    if found is None:
        raise VtokError("there is no ffmpeg program", at="PATH", hint=_HINT)
    return found


def _shipped() -> str | None:
    """The program inside imageio-ffmpeg; some of its wheels hold none, then it looks at conda's place and at PATH."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpeg_version() -> str:
    """Version of the ffmpeg program as it says it, for example `n9.0.2` or `5.1.9-0+deb12u1`.

    Raises:
        VtokError: there is no ffmpeg program, or what is there says no version.
    """
    return _version_of(ffmpeg_binary())


@functools.lru_cache(maxsize=8)
def _version_of(program: str) -> str:
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VtokError(f"the ffmpeg program does not run: {error}", at=program, hint=_HINT) from None
    words = said.split(maxsplit=3)
    if words[:2] != ["ffmpeg", "version"] or len(words) < 3:
        raise VtokError("this is no ffmpeg program: it does not say its version", at=program, hint=_HINT)
    return words[2]


def decoder_version(decoder: str) -> str:
    """`pyav` or `ffmpeg` with its version, for example `pyav 18.1.0`.

    Raises:
        VtokError: there is no ffmpeg program.
    """
    if decoder == "pyav":
        return f"pyav {importlib.metadata.version('av')}"
    return f"ffmpeg {ffmpeg_version()}"
