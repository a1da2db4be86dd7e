"""Decodes chosen frames of a video with the ffmpeg program, through a pipe: the second opinion beside PyAV.

It gives the same frames, and every one is identified by the time stamp that ffmpeg says it has: the container's, or,
where those do not tell the frames apart, the number of its packet, which ffmpeg is made to put there. Frames of raw
streams, whose time stamps ffmpeg makes itself, are counted. The first error ends a run (`-xerror`; without it ffmpeg
ends with exit code 0 on files that it could not decode, and conceals what is missing): then PyAV decodes the stream and
says which frames are sound, and only these are taken from a second run that goes on behind errors. Long stretches
without a wanted frame are skipped in containers with an index: ffmpeg starts anew at a key frame behind them.

The pipe carries frames of one kind. Where their size, format or colours change within a file (parts joined with cat),
the program sets its filters up anew, which is noticed; from there on the frames are PyAV's.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import av.error
import ffmpeg
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vtok.video import frames_pyav
from vtok.video.container import open_video, set_up
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import INPUT_OPTIONS, ffmpeg_binary, video_url
from vtok.video.ffmpeg_process import Messages, end, first_line
from vtok.video.frames_pyav import Indexed, read_found
from vtok.video.geometry import Geometry
from vtok.video.pictures import EXPLODE
from vtok.video.piped import PipedFrames, Stored
from vtok.video.pixels import SCALER_FLAGS
from vtok.video.probe import first_frame
from vtok.video.reading import LOST, Found
from vtok.video.selecting import Selection, select
from vtok.video.timeline import Timeline

Hwaccel = Literal["none", "cuda"]

_SILENT = {"ffv1"}  # decoders that end with no error on damage, so that somebody else must check: PyAV decodes it here

_NUMBERS = "setts=pts=N:dts=NOPTS"  # bitstream filter: a packet's number for its time stamp
_MIN_JUMP = 150  # frames that a new start must save: the program needs 15 to 60 ms to start
_BROADCAST = {"h264", "hevc", "mpeg1video", "mpeg2video"}  # codecs that may follow one another in one stream
_ANEW = b"frame:0"  # the first frame behind filters that have been set up
_CPU_SIGNAL = "received signal 24"  # SIGXCPU, which ffmpeg catches
# What NVDEC's NV12 and P010 hold, in the layout that the CPU decoders give: libswscale treats each in its own way.
_PLANAR = "yuv420p|yuvj420p|yuv422p|yuvj422p|yuv444p|yuvj444p|yuv420p10le|yuv422p10le|yuv444p10le|yuv420p12le|gray"


def read_frames(
    path: str | Path,
    stream_index: int,
    wanted: Sequence[int],
    geometry: Geometry,
    timeline: Timeline,
    hwaccel: Hwaccel = "none",
) -> Iterator[Indexed]:
    """Yields `(index, frame)` for the wanted frames in order; see `vtok.video.frames_pyav.read_frames`.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        wanted: ascending frame indices in presentation order.
        geometry: what to do to every frame.
        timeline: as far as the last wanted frame; without time stamps frames are counted.
        hwaccel: `cuda` decodes with NVDEC where it can be had, else on the CPU (`cuda_problem` says why).

    Raises:
        VideoError: nothing after the last frame yielded can be had.
        VtokError: there is no ffmpeg program.
    """
    codec, stored = _first(path, stream_index)
    if codec in _SILENT:
        yield from frames_pyav.read_frames(path, stream_index, wanted, geometry, timeline)
        return
    job = _Job(path, stream_index, geometry, PipedFrames(geometry, stored), timeline, codec, stored)
    there = wanted[: bisect.bisect_left(wanted, timeline.frames)]
    done = 0
    try:
        for item in _piped(job, there, cuda=hwaccel == "cuda" and cuda_problem() is None):
            yield item
            done += 1
    except _ChangeError:
        yield from frames_pyav.read_frames(path, stream_index, there[done:], geometry, timeline)
    if len(there) < len(wanted):
        raise VideoError(
            "missing_frames", f"the video ends after {timeline.frames} frames, {wanted[-1] + 1} are needed"
        )


class _DoubtError(Exception):
    """The program says that something is damaged, or left a frame out."""


class _ChangeError(Exception):
    """The frames are not all of one kind."""


class _Source(NamedTuple):
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


class _Job(NamedTuple):
    """What all runs of the program share."""

    path: str | Path
    stream_index: int
    geometry: Geometry
    piped: PipedFrames
    timeline: Timeline
    codec: str
    stored: Stored


def _piped(job: _Job, wanted: Sequence[int], *, cuda: bool) -> Iterator[Indexed]:
    """The wanted frames from the program, as far as they are of one kind.

    Raises:
        VideoError: see `read_frames`.
        _ChangeError: they are not.
    """
    source, done = _told(job.timeline), 0
    if source is not None:
        try:
            for item in _trust(job, source, wanted, cuda=cuda):
                yield item
                done += 1
            return
        except _DoubtError:
            pass
    yield from _guided(job, wanted[done:])


def _told(timeline: Timeline) -> _Source | None:
    """The program's frames as the packets tell; None where it must be seen first which frames come."""
    shown = timeline.shown
    if timeline.headless or shown.doubtful:
        return None
    ranks = [rank for rank in range(timeline.frames) if rank not in shown.repeats]
    if timeline.pts and shown.rising:
        return _Source(ranks, [timeline.pts[rank] for rank in ranks], "pts")
    if shown.places and not shown.timeless and numbers_packets():
        return _Source(ranks, [shown.places[rank] for rank in ranks], "pts", numbered=True)
    return None


def _seen(timeline: Timeline, came: Sequence[Found]) -> _Source:
    """The program's frames, of which it is known that they come."""
    ranks = [found.number for found in came]
    if timeline.shown.timeless or not numbers_packets():
        return _Source(ranks, range(len(ranks)), "n")
    return _Source(ranks, [found.packet for found in came], "pts", numbered=True)


@functools.lru_cache(maxsize=1)
def numbers_packets() -> bool:
    """Whether the program can change the time stamps of what it reads (from version 7.1 on).

    Raises:
        VtokError: there is no ffmpeg program.
    """
    command = [ffmpeg_binary(), "-nostdin", "-hide_banner", "-loglevel", "quiet", "-f", "lavfi", "-bsf:v", _NUMBERS]
    nothing = ["-i", "nullsrc=size=16x16", "-frames:v", "1", "-f", "null", "-"]
    return subprocess.run([*command, *nothing], capture_output=True, check=False).returncode == 0


def _trust(job: _Job, source: _Source, wanted: Sequence[int], *, cuda: bool) -> Iterator[Indexed]:
    """The wanted frames of a sound file.

    Raises:
        _DoubtError: it is not.
        _ChangeError: its frames are not of one kind.
    """
    segments = list(_segments(wanted, job.timeline, source))
    _compare(job, [start for start, _ in segments if start.seconds is not None])
    for start, segment in segments:
        positions = _positions(source, segment)
        run = _Run(job, source, sorted(set(positions)), start)
        begun = False
        if cuda:
            try:
                for item in _expanded(run.frames(cuda=True), positions, segment):
                    begun = True
                    yield item
                continue
            except (VideoError, _DoubtError):
                if begun:
                    raise
        yield from _expanded(run.frames(cuda=False), positions, segment)


def _positions(source: _Source, wanted: Sequence[int]) -> list[int]:
    """Where the frames lie among those that come; a frame that repeats the one before lies where that one does."""
    found = [bisect.bisect_right(source.ranks, index) - 1 for index in wanted]
    if found and found[0] < 0:
        raise _DoubtError
    return found


def _expanded(
    frames: Iterator[tuple[int, np.ndarray]], positions: Sequence[int], wanted: Sequence[int]
) -> Iterator[Indexed]:
    """Every wanted frame, by its index.

    Raises:
        _DoubtError: one does not come.
    """
    came, frame = next(frames, (-1, None))
    for index, position in zip(wanted, positions, strict=True):
        if came < position:
            came, frame = next(frames, (-1, None))
        if came != position or frame is None:
            raise _DoubtError
        yield index, frame


def _guided(job: _Job, wanted: Sequence[int]) -> Iterator[Indexed]:
    """The wanted frames of a file that is damaged, or whose frames the program's count alone does not tell.

    PyAV decodes the stream first and says which frames come, and which are sound. Only these are taken.

    Raises:
        VideoError: see `read_frames`.
        _ChangeError: the frames are not of one kind; none has been yielded.
    """
    if not wanted:
        return
    came: list[Found] = []
    problems: dict[int, str] = {}
    at, failure = 0, VideoError("missing_frames", "")
    try:
        for found in read_found(job.path, job.stream_index):
            at = found.number + 1
            if found.frame is not None and not found.repeat:
                if Stored.of(found.frame) != job.stored:
                    raise _ChangeError
                came.append(found._replace(frame=None))
            if found.problem is not None:
                problems[found.number] = found.problem
            if at > wanted[-1]:
                break
        else:
            failure = VideoError("missing_frames", f"the video ends after {at} frames, {wanted[-1] + 1} are needed")
    except VideoError as error:
        failure = error
    sound = [index for index in wanted if index < at and index not in problems]
    source = _seen(job.timeline, came)
    positions = _positions(source, sound)
    run = _Run(job, source, sorted(set(positions)), _Start(0, None), strict=False)
    places, frames = dict(zip(sound, positions, strict=True)), run.frames(cuda=False)
    position, frame = -1, None
    for index in wanted:
        if index >= at:
            raise failure
        if index in problems:
            yield index, VideoError("corrupt", problems[index])
            continue
        while position < places[index]:
            position, frame = next(frames, (len(source.ranks), None))
        if position == places[index] and frame is not None:
            yield index, frame
        else:
            yield index, VideoError("corrupt", run.said or LOST)


def _first(path: str | Path, stream_index: int) -> tuple[str, Stored]:
    """The codec, and what the first frame is like."""
    with open_video(path) as container:
        stream = _stream(container, stream_index)
        return stream.codec.canonical_name, Stored.of(first_frame(container, stream))


def _compare(job: _Job, starts: Sequence[_Start]) -> None:
    """Looks at the key frames where the program will start anew.

    Raises:
        _ChangeError: one is unlike the first frame, or cannot be had.
    """
    if not starts:
        return
    with open_video(job.path) as container:
        stream = _stream(container, job.stream_index)
        for start in starts:
            try:
                container.seek(job.timeline.pts[start.rank], stream=stream)
                frame = first_frame(container, stream)
            except (VideoError, av.error.FFmpegError):
                raise _ChangeError from None
            if Stored.of(frame) != job.stored:
                raise _ChangeError


def _stream(container: InputContainer, stream_index: int) -> VideoStream:
    stream = container.streams[stream_index]
    if not isinstance(stream, VideoStream):
        raise VideoError("changed", f"stream {stream_index} is no video")
    set_up(stream)
    return stream


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
    with _without_memory_limit():
        done = subprocess.run([*command, *nothing], capture_output=True, check=False)
    if done.returncode == 0:
        return None
    return first_line(done.stderr.decode("utf-8", "replace")) or f"exit code {done.returncode}"


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


def _segments(wanted: Sequence[int], timeline: Timeline, source: _Source) -> Iterator[tuple[_Start, Sequence[int]]]:
    """Cuts the wanted frames where it pays to start anew, at a key frame, in containers that lead there."""
    begin, start = 0, _Start(0, None)
    keys = timeline.keys if timeline.shown.indexed and not source.numbered and source.variable == "pts" else []
    for position, index in enumerate(wanted):
        at = wanted[position - 1] + 1 if position else 0
        before = bisect.bisect_right(keys, index) - 1
        if before >= 0 and keys[before] - at >= _MIN_JUMP and timeline.pts[keys[before]] >= 0:
            if begin < position:
                yield start, wanted[begin:position]
            key = keys[before]
            begin, start = position, _Start(key, timeline.pts[key] * timeline.tick)
    if begin < len(wanted):
        yield start, wanted[begin:]


class _Run:
    """One run of the program.

    Args:
        job: what to decode.
        source: what the program gives.
        wanted: ascending positions in `source`.
        start: where to begin.
        strict: whether the first error ends the run; else the program goes on behind it.
    """

    def __init__(
        self, job: _Job, source: _Source, wanted: Sequence[int], start: _Start, *, strict: bool = True
    ) -> None:
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
            _ChangeError: frames of another kind follow.
        """
        if not self.wanted:
            return
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
            _ChangeError: it is of another kind than those before.
        """
        while not (line := stamps.readline()).startswith(b"frame:"):
            if not line:
                raise VideoError("corrupt", "ffmpeg does not say which frame it has decoded")
        if count and line.split(None, 1)[0] == _ANEW:
            raise _ChangeError
        found = line.partition(b"pts:")[2].split()[0]
        return places.get(int(found), -1) if found.lstrip(b"-").isdigit() else -1
