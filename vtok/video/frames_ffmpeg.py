"""Decodes chosen frames of a video with the ffmpeg program, through a pipe: the second opinion beside PyAV.

It gives the same frames, and every one is identified by the time stamp that ffmpeg says it has. It is stricter with
damaged files: the first error ends the video (`-xerror`; without it ffmpeg ends with exit code 0 on files that it could
not decode). Long stretches without a wanted frame are skipped: ffmpeg starts anew at a key frame behind them.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import resource
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import ffmpeg
from av.video.stream import VideoStream

from vtok.video.container import open_video, single_threaded
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, ffmpeg_binary, video_url
from vtok.video.frames_pyav import Indexed
from vtok.video.geometry import Geometry
from vtok.video.pixels import Conversion, piped_views, plan
from vtok.video.probe import first_frame
from vtok.video.reading import HEADLESS, LOST
from vtok.video.timeline import Timeline

Hwaccel = Literal["none", "cuda"]

_MAX_TERMS = 64  # of the select expression, which is evaluated for every frame
_MIN_JUMP = 150  # frames that a new start must save: the program needs 15 to 60 ms to start
_TAIL = 4096  # bytes of ffmpeg's messages that are kept
_CPU_SIGNAL = "received signal 24"  # SIGXCPU, which ffmpeg catches
# What NVDEC's NV12 and P010 hold, in the layout that the CPU decoders give: libswscale treats each in its own way.
_PLANAR = "yuv420p|yuvj420p|yuv422p|yuvj422p|yuv444p|yuvj444p|yuv420p10le|yuv422p10le|yuv444p10le|yuv420p12le|gray"


def read_frames(
    path: str | Path,
    stream_index: int,
    wanted: Sequence[int],
    geometry: Geometry,
    height: int,
    width: int,
    timeline: Timeline,
    hwaccel: Hwaccel = "none",
) -> Iterator[Indexed]:
    """Yields `(index, frame)` for the wanted frames in order; see `vtok.video.frames_pyav.read_frames`.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        wanted: ascending frame indices in presentation order.
        geometry: what to do to every frame.
        height, width: of the upright frame, pixels.
        timeline: as far as the last wanted frame; without time stamps frames are counted.
        hwaccel: `cuda` decodes with NVDEC where it can be had, else on the CPU (`cuda_problem` says why).

    Raises:
        VideoError: nothing after the last frame yielded can be had.
        VtokError: there is no ffmpeg program.
    """
    if geometry.rotation in (90, 270):
        height, width = width, height
    conversion = plan(geometry, _stored_format(path, stream_index), height, width).unpadded()
    cuda = hwaccel == "cuda" and cuda_problem() is None
    there = bisect.bisect_left(wanted, len(timeline.pts)) if timeline.pts else len(wanted)
    for start, segment in _segments(wanted[:there], timeline):
        run = _Run(path, stream_index, segment, geometry, conversion, timeline, start)
        begun = False
        if cuda:
            try:
                for item in run.frames(cuda=True):
                    begun = True
                    yield item
                continue
            except VideoError:
                if begun:
                    raise
        yield from run.frames(cuda=False)
    if there < len(wanted):
        raise VideoError(
            "missing_frames", f"the video ends after {len(timeline.pts)} frames, {wanted[-1] + 1} are needed"
        )


def _stored_format(path: str | Path, stream_index: int) -> str:
    """FFmpeg's name of the pixel format of the first frame."""
    with open_video(path) as container:
        stream = container.streams[stream_index]
        if not isinstance(stream, VideoStream):
            raise VideoError("changed", f"stream {stream_index} is no video")
        single_threaded(stream)
        return str(first_frame(container, stream).format.name)


@functools.lru_cache(maxsize=1)
def cuda_problem() -> str | None:
    """Why ffmpeg cannot use CUDA on this machine; None if it can.

    Raises:
        VtokError: there is no ffmpeg program.
    """
    command = [ffmpeg_binary(), "-nostdin", "-hide_banner", "-loglevel", "error", "-init_hw_device", "cuda"]
    nothing = ["-f", "lavfi", "-i", "nullsrc=size=64x64", "-frames:v", "1", "-f", "null", "-"]
    with _without_memory_limit():
        done = subprocess.run([*command, *nothing], capture_output=True, check=False)
    if done.returncode == 0:
        return None
    return _first_line(done.stderr.decode("utf-8", "replace")) or f"exit code {done.returncode}"


@contextlib.contextmanager
def _without_memory_limit(wanted: bool = True) -> Iterator[None]:
    """Starts programs without the limit on address space, of which CUDA reserves more than there is memory."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if wanted:
        resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class _Start(NamedTuple):
    """Where ffmpeg begins to read: at a key frame, or (None) at the beginning."""

    rank: int
    seconds: float | None


def _segments(wanted: Sequence[int], timeline: Timeline) -> Iterator[tuple[_Start, Sequence[int]]]:
    """Cuts the wanted frames where it pays to start anew."""
    begin, start = 0, _Start(0, None)
    for position, index in enumerate(wanted):
        at = wanted[position - 1] + 1 if position else 0
        before = bisect.bisect_right(timeline.keys, index) - 1
        if before >= 0 and timeline.keys[before] - at >= _MIN_JUMP:
            if begin < position:
                yield start, wanted[begin:position]
            key = timeline.keys[before]
            begin, start = position, _Start(key, timeline.pts[key] * timeline.tick)
    if begin < len(wanted):
        yield start, wanted[begin:]


class _Run:
    """One run of the program."""

    def __init__(
        self,
        path: str | Path,
        stream_index: int,
        wanted: Sequence[int],
        geometry: Geometry,
        conversion: Conversion,
        timeline: Timeline,
        start: _Start,
    ) -> None:
        self.path, self.stream_index, self.wanted = path, stream_index, wanted
        self.geometry, self.conversion, self.timeline, self.start = geometry, conversion, timeline, start
        self.pts = timeline.pts
        if self.pts:
            self.selected, self.expression = _select_stamps(wanted, timeline.pts)
        else:
            self.selected, self.expression = _select_counts(wanted)

    def _command(self, stamps: int, *, cuda: bool) -> list[str]:
        source = {"threads": 1, "noautorotate": None, "copyts": None, **INPUT_OPTIONS}
        if cuda:
            source["hwaccel"] = "cuda"
        if self.start.seconds is not None:
            # To the key frame; which frames are taken is for the filter to say.
            source |= {"seek_timestamp": 1, "noaccurate_seek": None, "ss": f"{self.start.seconds:.6f}"}
        frames = ffmpeg.input(video_url(self.path), **source)[str(self.stream_index)]
        frames = frames.filter("select", self.expression)
        frames = frames.filter("metadata", mode="add", key="frame", value="1")
        frames = frames.filter("metadata", mode="print", direct=1, file=f"pipe:{stamps}")
        if cuda:
            frames = frames.filter("format", _PLANAR)
        made = self.conversion
        frames = frames.filter("scale", made.width, made.height, flags=made.filter_flags)
        # -frames:v ends the program after the last wanted frame.
        output = frames.output(
            "pipe:",
            format="rawvideo",
            pix_fmt=made.layout,
            fps_mode="passthrough",
            **{"frames:v": len(self.selected)},
        )
        options = ["-nostdin", "-xerror", "-hide_banner", "-loglevel", "error", "-filter_threads", "1"]
        return list(output.global_args(*options).compile(cmd=ffmpeg_binary()))

    def frames(self, *, cuda: bool) -> Iterator[Indexed]:
        """The wanted frames.

        Raises:
            VideoError: nothing after the last frame yielded can be had.
        """
        reading, writing = os.pipe()
        try:
            with os.fdopen(reading, "rb") as stamps:
                with _without_memory_limit(cuda):
                    process = subprocess.Popen(
                        self._command(writing, cuda=cuda),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        pass_fds=(writing,),
                    )
                os.close(writing)
                writing = -1
                yield from self._read(process, stamps)
        finally:
            if writing >= 0:
                os.close(writing)

    def _read(self, process: subprocess.Popen[bytes], stamps: IO[bytes]) -> Iterator[Indexed]:
        size = self.conversion.height * self.conversion.row_bytes
        messages = _Messages(process.stderr)
        assert process.stdout is not None
        keep, place = set(self.wanted), 0  # place: in `selected`
        try:
            while place < len(self.selected):
                data = process.stdout.read(size)
                if len(data) < size:
                    break
                came = self._place(stamps, place)
                for index in self.selected[place:came]:
                    if index in keep:
                        yield index, VideoError("corrupt", LOST)
                index, place = self.selected[came], came + 1
                if index in keep and self._is_headless(index):
                    yield index, VideoError("corrupt", HEADLESS)
                elif index in keep:
                    yield index, self.geometry.finish(piped_views(self.conversion, data))
            if place == len(self.selected):
                return
            code, said = process.wait(), messages.text()
        finally:
            _end(process)
            messages.join()
        missing = self.selected[place]
        if _CPU_SIGNAL in said or code == -24:
            raise VideoError("timeout", "ffmpeg used up its CPU time")
        if "annot allocate memory" in said:
            raise VideoError("memory", "ffmpeg ran out of memory")
        if code != 0:
            why = _first_line(said.replace(video_url(self.path), "the file").replace(str(self.path), "the file"))
            raise VideoError("corrupt", f"before frame {missing}: {why or f'exit code {code}'}")
        raise VideoError("missing_frames", f"the video ends before frame {missing}, {self.wanted[-1] + 1} are needed")

    def _is_headless(self, index: int) -> bool:
        keys = self.timeline.keys
        return self.timeline.headless and (not keys or index < keys[0])

    def _place(self, stamps: IO[bytes], place: int) -> int:
        """Where in `selected` the frame belongs that has just come, by its time stamp.

        Raises:
            VideoError: corrupt, if no frame that may still come has that time stamp.
        """
        if not self.pts:
            return place
        while not (line := stamps.readline()).startswith(b"frame:"):
            if not line:
                raise VideoError("corrupt", "ffmpeg does not say which frame it has decoded")
        found = line.partition(b"pts:")[2].split()[0]
        while place < len(self.selected) and str(self.pts[self.selected[place]]).encode() != found:
            place += 1
        if place == len(self.selected):
            raise VideoError("corrupt", "frames cannot be told apart by their time stamps")
        return place


def _runs(wanted: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, step) of runs of equal steps."""
    start = 0
    while start < len(wanted):
        step = wanted[start + 1] - wanted[start] if start + 1 < len(wanted) else 1
        end = start
        while end + 1 < len(wanted) and wanted[end + 1] - wanted[end] == step:
            end += 1
        yield wanted[start], wanted[end], step
        start = end + 1


def _select_counts(wanted: Sequence[int]) -> tuple[Sequence[int], str]:
    """The frames to let through, and the expression that does it: runs of equal steps, or else one whole stretch."""
    terms = [
        f"between(n,{first},{last})" + (f"*not(mod(n-{first},{step}))" if step > 1 else "")
        for first, last, step in _runs(wanted)
    ]
    if len(terms) > _MAX_TERMS:
        return range(wanted[0], wanted[-1] + 1), f"between(n,{wanted[0]},{wanted[-1]})"
    return wanted, "+".join(terms)


def _select_stamps(wanted: Sequence[int], pts: Sequence[int]) -> tuple[Sequence[int], str]:
    """The same by time stamps, which hold wherever ffmpeg starts to read."""
    selected: list[int] = []
    terms: list[str] = []
    for first, last, step in _runs(wanted):
        term, gap = f"between(pts,{pts[first]},{pts[last]})", pts[min(first + step, last)] - pts[first]
        run = list(range(first, last + 1, step))
        if step > 1:
            if gap and [i for i in range(first, last + 1) if (pts[i] - pts[first]) % gap == 0] == run:
                term += f"*not(mod(pts-({pts[first]}),{gap}))"
            else:  # unevenly spaced: all of them come, and those not wanted are dropped
                run = list(range(first, last + 1))
        selected += run
        terms.append(term)
    if len(terms) > _MAX_TERMS:
        return range(wanted[0], wanted[-1] + 1), f"between(pts,{pts[wanted[0]]},{pts[wanted[-1]]})"
    return selected, "+".join(terms)


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


def _first_line(said: str) -> str:
    """ffmpeg's first message without the addresses of its objects, which differ from run to run."""
    lines = [line for line in said.splitlines() if line.strip()]
    if not lines:
        return ""
    text = lines[0]
    while text.startswith("[") and "]" in text:
        text = text.partition("]")[2].strip()
    return text[:200]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
