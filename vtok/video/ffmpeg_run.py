"""One run of the ffmpeg program: what it is told, the frames that come through the pipe, and which ones they are."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import ffmpeg
import numpy as np

from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, ffmpeg_binary, video_url
from vtok.video.ffmpeg_process import Messages, end, first_line
from vtok.video.geometry import Geometry
from vtok.video.pictures import EXPLODE
from vtok.video.piped import PipedFrames, Stored
from vtok.video.pixels import SCALER_FLAGS
from vtok.video.selecting import Selection, select
from vtok.video.timeline import Timeline

_NUMBERS = "setts=pts=N:dts=NOPTS"  # bitstream filter: a packet's number for its time stamp
_BROADCAST = {"h264", "hevc", "mpeg1video", "mpeg2video"}  # codecs that may follow one another in one stream
_ANEW = b"frame:0"  # the first frame behind filters that have been set up
_CPU_SIGNAL = "received signal 24"  # SIGXCPU, which ffmpeg catches
# What NVDEC's NV12 and P010 hold, in the layout that the CPU decoders give: libswscale treats each in its own way.
_PLANAR = "yuv420p|yuvj420p|yuv422p|yuvj422p|yuv444p|yuvj444p|yuv420p10le|yuv422p10le|yuv444p10le|yuv420p12le|gray"


class DoubtError(Exception):
    """The program says that something is damaged, or left a frame out."""


class ChangeError(Exception):
    """The frames are not all of one kind."""


class Source(NamedTuple):
    """The frames that the program gives, in their order.

    Attributes:
        ranks: their indices among the frames that are shown.
        marks: what each is known by: its time stamp, the number of its packet, or its position.
        variable: the `select` filter's name for the mark.
        numbered: whether the program is told to give packets their numbers for time stamps.
    """

    ranks: Sequence[int]
    marks: Sequence[int]
    variable: Literal["pts", "n"]
    numbered: bool = False


class Job(NamedTuple):
    """What all runs of the program share."""

    path: str | Path
    stream_index: int
    geometry: Geometry
    piped: PipedFrames
    timeline: Timeline
    codec: str
    stored: Stored


@functools.lru_cache(maxsize=1)
def numbers_packets() -> bool:
    """Whether the program can change the time stamps of what it reads (from version 7.1 on).

    Raises:
        VtokError: there is no ffmpeg program.
    """
    command = [ffmpeg_binary(), "-nostdin", "-hide_banner", "-loglevel", "quiet", "-f", "lavfi", "-bsf:v", _NUMBERS]
    nothing = ["-i", "nullsrc=size=16x16", "-frames:v", "1", "-f", "null", "-"]
    return subprocess.run([*command, *nothing], capture_output=True, check=False).returncode == 0


@functools.lru_cache(maxsize=4)
def _crops_for_containers(program: str) -> bool:
    """Whether an ffmpeg cuts off what a container says (Matroska's PixelCrop, MOV's `clap`) unless told otherwise."""
    said = subprocess.run([program, "-hide_banner", "-h", "long"], capture_output=True, check=False).stdout
    return b"-apply_cropping" in said


@functools.lru_cache(maxsize=1)
def cuda_problem() -> str | None:
    """Why ffmpeg cannot use CUDA on this machine; None if it can.

    Raises:
        VtokError: there is no ffmpeg program.
    """
    command = [ffmpeg_binary(), "-nostdin", "-hide_banner", "-loglevel", "error", "-init_hw_device", "cuda"]
    nothing = ["-f", "lavfi", "-i", "nullsrc=size=64x64", "-frames:v", "1", "-f", "null", "-"]
    with without_memory_limit():
        done = subprocess.run([*command, *nothing], capture_output=True, check=False)
    if done.returncode == 0:
        return None
    return first_line(done.stderr.decode("utf-8", "replace")) or f"exit code {done.returncode}"


@contextlib.contextmanager
def without_memory_limit(wanted: bool = True) -> Iterator[None]:
    """Starts programs without the limit on address space, of which CUDA reserves more than there is memory."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if wanted:
        resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Start(NamedTuple):
    """Where ffmpeg begins to read: at a key frame, or (None) at the beginning."""

    rank: int
    seconds: float | None


class Run:
    """One run of the program.

    Args:
        job: what to decode.
        source: what the program gives.
        wanted: ascending positions in `source`.
        start: where to begin.
        strict: whether the first error ends the run; else the program goes on behind it.
    """

    def __init__(self, job: Job, source: Source, wanted: Sequence[int], start: Start, *, strict: bool = True) -> None:
        self.path, self.stream_index, self.geometry, self.piped = job[:4]
        self.codec = job.codec
        self.source, self.wanted, self.start, self.strict = source, wanted, start, strict
        self.lenient = job.timeline.shown.lenient
        # Behind damage frames may come that nobody expects, besides those that are counted.
        self.limited = strict or source.variable == "n"
        self.said = ""  # why the program ended early
        self.selection = select(wanted, source.marks, source.variable) if wanted else Selection([], "0")
        self.come, self.expression = self.selection.passing, self.selection.expression
        if start.seconds is None and self.come[:1] != [0]:
            # The first frame comes through, too (-1: unasked): so filters that are set up anew before the first wanted
            # one are noticed. Where a run starts at a key frame, that has been looked at.
            self.come, self.expression = [-1, *self.come], f"eq(n,0)+{self.expression}"

    def _command(self, stamps: int, *, cuda: bool) -> list[str]:
        source = {"threads": 1, "noautorotate": None, "copyts": None, **INPUT_OPTIONS}
        if _crops_for_containers(ffmpeg_binary()):
            source["apply_cropping"] = "codec"  # PyAV does not know of the container's
        if self.codec in _BROADCAST:  # the program would take the codec of a part that is joined behind
            source[f"c:{self.stream_index}"] = self.codec
        if cuda:
            source["hwaccel"] = "cuda"
        if self.start.seconds is not None:
            # To the key frame; which frames are taken is for the filter to say.
            source |= {"seek_timestamp": 1, "noaccurate_seek": None, "ss": f"{self.start.seconds:.6f}"}
        if self.lenient:
            source |= EXPLODE
        if self.source.numbered:
            source["bsf:v"] = _NUMBERS
        frames = ffmpeg.input(video_url(self.path), **source)[str(self.stream_index)]
        frames = frames.filter("select", self.expression)
        frames = frames.filter("metadata", mode="add", key="frame", value="1")
        frames = frames.filter("metadata", mode="print", direct=1, file=f"pipe:{stamps}")
        if self.source.numbered:  # as they come, for the output
            frames = frames.filter("setpts", "N")
        if cuda:
            frames = frames.filter("format", _PLANAR)
        frames = frames.filter("scale", self.piped.width, self.piped.height, flags=SCALER_FLAGS, interl=0)
        # The program ends after the last wanted frame.
        limit = {"frames:v": len(self.come)} if self.limited else {}
        output = frames.output(
            "pipe:",
            format="rawvideo",
            pix_fmt=self.piped.pixel_format,
            fps_mode="passthrough",
            **limit,
        )
        options = ["-nostdin", "-hide_banner", "-loglevel", "error", "-filter_threads", "1"]
        if self.strict:
            options.append("-xerror")
        return list(output.global_args(*options).compile(cmd=ffmpeg_binary()))

    def frames(self, *, cuda: bool) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames that come, with their positions.

        Raises:
            VideoError: the program ran out of time or memory.
            ChangeError: frames of another kind follow.
        """
        if not self.wanted:
            return
        reading, writing = os.pipe()
        try:
            with os.fdopen(reading, "rb") as stamps:
                with without_memory_limit(cuda):
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

    def _read(self, process: subprocess.Popen[bytes], stamps: IO[bytes]) -> Iterator[tuple[int, np.ndarray]]:
        size = self.piped.bytes
        messages = Messages(process.stderr)
        assert process.stdout is not None
        keep, last = set(self.wanted), self.wanted[-1]
        places = {self.source.marks[position]: position for position in self.selection.passing}
        try:
            for count in itertools.count():
                if self.limited and count == len(self.come):
                    return
                data = process.stdout.read(size)
                if len(data) < size:
                    break
                place = self._place(stamps, places, count)
                position = self.come[count] if self.source.variable == "n" else place
                if position in keep:
                    yield position, self.geometry.finish(self.piped(data))
                if position == last:
                    return
            code, said = process.wait(), messages.text()
        finally:
            end(process)
            messages.join()
        if _CPU_SIGNAL in said or code == -24:
            raise VideoError("timeout", "ffmpeg used up its CPU time")
        if "annot allocate memory" in said:
            raise VideoError("memory", "ffmpeg ran out of memory")
        why = first_line(said.replace(video_url(self.path), "the file").replace(str(self.path), "the file"))
        self.said = (why or f"exit code {code}") if code else ""

    def _place(self, stamps: IO[bytes], places: dict[int, int], count: int) -> int:
        """The position of the frame that has just come, by its time stamp; -1 for one that was not asked for.

        Raises:
            VideoError: corrupt, if the program does not say which frame it is.
            ChangeError: it is of another kind than those before.
        """
        while not (line := stamps.readline()).startswith(b"frame:"):
            if not line:
                raise VideoError("corrupt", "ffmpeg does not say which frame it has decoded")
        if count and line.split(None, 1)[0] == _ANEW:
            raise ChangeError
        found = line.partition(b"pts:")[2].split()[0]
        return places.get(int(found), -1) if found.lstrip(b"-").isdigit() else -1
