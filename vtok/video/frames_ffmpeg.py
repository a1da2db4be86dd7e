"""Decodes chosen frames of a video with the ffmpeg program, through a pipe: the second opinion beside PyAV.

It gives the same frames. It is stricter with damaged files: the first error ends the video (`-xerror`; without it
ffmpeg ends with exit code 0 on files that it could not decode).
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import ffmpeg
import numpy as np

from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, ffmpeg_binary, video_url
from vtok.video.frames_pyav import Indexed
from vtok.video.geometry import Geometry

_MAX_TERMS = 64  # of the select expression, which is evaluated for every frame
_TAIL = 4096  # bytes of ffmpeg's messages that are kept
_CPU_SIGNAL = "received signal 24"  # SIGXCPU, which ffmpeg catches


def read_frames(
    path: str | Path, stream_index: int, wanted: Sequence[int], geometry: Geometry, height: int, width: int
) -> Iterator[Indexed]:
    """Yields `(index, frame)` for the wanted frames in order; see `vtok.video.frames_pyav.read_frames`.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        wanted: ascending frame indices in presentation order.
        geometry: what to do to every frame.
        height, width: of the upright frame, pixels.

    Raises:
        VideoError: nothing after the last frame yielded can be had.
        VtokError: there is no ffmpeg program.
    """
    if geometry.rotation in (90, 270):
        height, width = width, height
    rows, columns = geometry.scaled_size(height, width)
    selected, expression = _selection(wanted)
    source = ffmpeg.input(video_url(path), threads=1, noautorotate=None, **INPUT_OPTIONS)[str(stream_index)]
    frames = source.filter("select", expression).filter("scale", columns, rows, flags="bilinear")
    # -frames:v ends the program after the last wanted frame.
    output = frames.output(
        "pipe:", format="rawvideo", pix_fmt=geometry.pixel_format, fps_mode="passthrough", **{"frames:v": len(selected)}
    )
    options = ["-nostdin", "-xerror", "-hide_banner", "-loglevel", "error", "-filter_threads", "1"]
    process: subprocess.Popen[bytes] = output.global_args(*options).run_async(
        cmd=ffmpeg_binary(), pipe_stdout=True, pipe_stderr=True
    )
    messages = _Messages(process.stderr)
    try:
        keep, got = set(wanted), 0
        for index in selected:
            data = process.stdout.read(rows * columns * (4 if geometry.resizes_here else 3)) if process.stdout else b""
            if len(data) < rows * columns * (4 if geometry.resizes_here else 3):
                break
            got += 1
            if index in keep:
                yield index, geometry.finish(geometry.view(data, rows, columns, columns * (4 if geometry.resizes_here else 3)))
        if got == len(selected):
            return
        code, said = process.wait(), messages.text()
    finally:
        _end(process)
        messages.join()
    if _CPU_SIGNAL in said or code == -24:
        raise VideoError("timeout", "ffmpeg used up its CPU time")
    if "annot allocate memory" in said:
        raise VideoError("memory", "ffmpeg ran out of memory")
    if code != 0:
        raise VideoError("corrupt", f"before frame {selected[got]}: {_first_line(said, path) or f'exit code {code}'}")
    raise VideoError("missing_frames", f"the video ends before frame {selected[got]}, {wanted[-1] + 1} are needed")


def _selection(wanted: Sequence[int]) -> tuple[Sequence[int], str]:
    """The frames to let through, and the expression that does it: runs of equal steps, or else one whole stretch."""
    terms, start = [], 0
    while start < len(wanted):
        step = wanted[start + 1] - wanted[start] if start + 1 < len(wanted) else 1
        end = start
        while end + 1 < len(wanted) and wanted[end + 1] - wanted[end] == step:
            end += 1
        first, last = wanted[start], wanted[end]
        terms.append(f"between(n,{first},{last})" + (f"*not(mod(n-{first},{step}))" if step > 1 else ""))
        start = end + 1
        if len(terms) > _MAX_TERMS:
            return range(wanted[0], wanted[-1] + 1), f"between(n,{wanted[0]},{wanted[-1]})"
    return wanted, "+".join(terms)


class _Messages:
    """Empties ffmpeg's stderr in a thread, so that it never blocks; keeps the end of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        if self._stream is not None:
            with self._stream as stream:
                while block := stream.read(_TAIL):
                    self._kept = (self._kept + block)[-_TAIL:]

    def join(self) -> None:
        self._thread.join(timeout=5)

    def text(self) -> str:
        self.join()
        return self._kept.decode("utf-8", "replace")


def _first_line(said: str, path: str | Path) -> str:
    """ffmpeg's first message without the path and the addresses of its objects, which differ from run to run."""
    lines = [line for line in said.splitlines() if line.strip()]
    if not lines:
        return ""
    text = lines[0].replace(video_url(path), "the file").replace(str(path), "the file")
    while text.startswith("[") and "]" in text:
        text = text.partition("]")[2].strip()
    return text[:200]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
