"""What the frames of a video are like: cuts, motion, black frames, black bars. Only on request, at ingest.

One sequential pass. FFmpeg's filter shrinks every frame to 64 x 64 grey pixels (`scale`), in this process through PyAV;
what changed since the frame before is counted as its filter `scdet` counts. A frame is black if 98% of its small pixels
are darker than a tenth of the range. Bars are rows or columns without a bright pixel in any frame, equally thick on
both sides: cropdetect's rule (a low mean, each side for itself) takes the dark side of a night scene for a bar.

Frames that are damaged, or need damaged ones, are passed over. A video that cannot be decoded to its end is analysed up
to there; what comes after is neither cut nor judged, and the job that decodes the clips says what is wrong with it.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import av.error
import av.filter
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float64, UInt8

from vtok.video.clips import ClipSpan
from vtok.video.errors import Reason, VideoError
from vtok.video.frames_pyav import read_found
from vtok.video.geometry import Box
from vtok.video.media.sequence import Opened
from vtok.video.pixels import one_thread, to_full_range
from vtok.video.probe import StreamFacts
from vtok.video.timeline import BEFORE_CUT, Segment, read_timeline

if TYPE_CHECKING:
    from schemas.config.data import DataConfig

_SIDE = 64  # pixels of a small frame
_DARK, _DARK_SHARE = 25, 0.98  # grey level; share of a black frame's pixels
_BAR = 24  # grey level: the brightest pixel of a row or column that belongs to a bar; compressed black is not quite 0
_THINNEST_BAR = 0.02  # of the height or width; two bars may differ by this, and thinner ones are a bad encoder's edges


class Analysis(NamedTuple):
    """One row a decoded frame.

    Attributes:
        seconds: when it is displayed, from the first frame of the video.
        score: how much it looks like the first of a new shot, 0..100 (scdet's score).
        motion: mean absolute difference to the frame before, percent of the range from black to white; 0 for the first.
        black: 1.0 for a black frame, else 0.0.
        picture: left, top, right, bottom of the upright frame without its bars; None: no bars, or not asked for.
    """

    seconds: Float64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    motion: Float64[np.ndarray, " n"]
    black: Float64[np.ndarray, " n"]
    picture: Box | None


def analyse(opened: Opened, facts: StreamFacts, *, bars: bool) -> Analysis:
    """Looks at every frame of a video once.

    Args:
        opened: the video file or sequence of frames.
        facts: of the video.
        bars: whether to look for black bars, too: that needs the frames in full size.

    Raises:
        VideoError: the file cannot be opened.
    """
    look = _Look(bars)
    with contextlib.suppress(av.error.FFmpegError, EOFError, VideoError):  # the rest cannot be decoded
        for frame in _frames(opened, facts):
            if frame is None:
                look.pass_over()
            else:
                look.at(frame)
    seconds = np.arange(len(look.rows), dtype=np.float64) / facts.fps
    if opened.sequence is None:
        # The very times by which decoding chooses frames.
        stamps = read_timeline(opened.path, facts.stream).seconds
        if len(stamps) >= len(seconds):
            seconds = np.array(stamps[: len(seconds)], dtype=np.float64)
    score, motion, black = np.array(look.rows, dtype=np.float64).reshape(-1, 3).T
    return Analysis(seconds, score, motion, black, look.picture(facts.rotation, mirrored=bool(facts.mirrored)))


def _frames(opened: Opened, facts: StreamFacts) -> Iterator[VideoFrame | None]:
    """All frames in presentation order, as they are stored; None for one that cannot be had sound.

    Raises:
        VideoError: nothing more can be had.
    """
    if opened.sequence is not None:
        for index in range(opened.sequence.facts.frames):
            try:
                yield VideoFrame.from_ndarray(np.ascontiguousarray(opened.sequence.read(index)), format="rgb24")
            except VideoError:
                yield None
        return
    for found in read_found(opened.path, facts.stream):
        yield found.frame if found.problem is None else None


class _Look:
    """Measures one frame after the other."""

    def __init__(self, bars: bool) -> None:
        self.rows: list[tuple[float, float, float]] = []
        self._bars, self._lines = bars, (np.zeros(0, np.uint8), np.zeros(0, np.uint8))
        self._reformatter = VideoReformatter()
        self._graph: av.filter.Graph | None = None
        self._size = (0, 0, "")
        self._small: np.ndarray | None = None
        self._motion = 0.0

    def pass_over(self) -> None:
        """Adds the row of a frame that cannot be had: no clip will hold it."""
        self.rows.append((0.0, 0.0, 0.0))

    def at(self, frame: VideoFrame) -> None:
        """Adds the row of a frame."""
        if self._bars:
            self._add_lines(frame)
        small = self._shrink(frame).to_ndarray()
        dark = float(np.mean(small <= _DARK) >= _DARK_SHARE)
        self.rows.append((*self._changed(small), dark))

    def _changed(self, small: UInt8[np.ndarray, "h w"]) -> tuple[float, float]:
        """Score and motion of a frame, in the arithmetic of FFmpeg's filter `scdet`, to its three decimals.

        The filter itself gives them as metadata of frames, which PyAV has shown since version 18.1.
        """
        before, self._small = self._small, small.astype(np.int16)
        if before is None:
            return 0.0, 0.0
        motion = float(np.abs(self._small - before).sum()) * 100 / small.size / 256
        score = min(100.0, float(np.float32(min(motion, abs(motion - self._motion)))))
        self._motion = motion
        return float(f"{score:.3f}"), float(f"{motion:.3f}")

    def _shrink(self, frame: VideoFrame) -> VideoFrame:
        size = (frame.width, frame.height, frame.format.name)
        if self._graph is None:
            self._graph, self._size = _small_grey(frame), size
        elif size != self._size:
            raise EOFError  # frames that change their size within a video are refused by the decoding pass
        frame.pts, frame.time_base = len(self.rows), Fraction(1, 25)
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _add_lines(self, frame: VideoFrame) -> None:
        grey_hw = self._grey(frame)
        rows, columns = grey_hw.max(axis=1), grey_hw.max(axis=0)
        if not len(self._lines[0]):
            self._lines = rows, columns
        elif (len(rows), len(columns)) == tuple(map(len, self._lines)):
            self._lines = np.maximum(self._lines[0], rows), np.maximum(self._lines[1], columns)

    def _grey(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w"]:
        return self._reformatter.reformat(frame, format="gray", **to_full_range(frame), **one_thread()).to_ndarray()

    def picture(self, rotation: int, *, mirrored: bool) -> Box | None:
        """The upright picture between the bars; None where there are none, or nothing else."""
        rows, columns = self._lines
        if mirrored:
            columns = columns[::-1]
        for _ in range(rotation // 90):  # a quarter turn counter-clockwise: the last column becomes the first row
            rows, columns = columns[::-1], rows
        vertical, horizontal = _extent(rows), _extent(columns)
        if vertical is None or horizontal is None:
            return None
        box = (horizontal[0], vertical[0], horizontal[1], vertical[1])
        return None if box == (0, 0, len(columns), len(rows)) else box


def _small_grey(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)),
        # Exact arithmetic gives the same figures on every kind of processor.
        graph.add("scale", f"{_SIDE}:{_SIDE}:flags=area+accurate_rnd+full_chroma_int+bitexact:out_range=full"),
        graph.add("format", "gray"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _extent(lines: UInt8[np.ndarray, " n"]) -> tuple[int, int] | None:
    """The range of lines between two bars; all lines if there are none, None if there is nothing else."""
    bright = np.flatnonzero(lines > _BAR)
    if not len(bright):
        return None
    first, end, thin = int(bright[0]), int(bright[-1]) + 1, _THINNEST_BAR * len(lines)
    after = len(lines) - end
    return (first, end) if min(first, after) >= thin >= abs(first - after) else (0, len(lines))


def shots(analysis: Analysis, threshold: float, facts: StreamFacts) -> list[Segment]:
    """The stretches between cuts, in order; together they are the whole video.

    Args:
        analysis: of the video.
        threshold: a frame with a higher score begins a shot.
        facts: of the video.
    """
    cuts = [int(i) for i in np.flatnonzero(analysis.score > threshold) if 0 < i < facts.frames]
    times = [float(analysis.seconds[i]) for i in cuts]
    stops = [*(time - BEFORE_CUT for time in times), facts.duration]
    return [Segment(*found) for found in zip([0, *cuts], [*cuts, facts.frames], [0.0, *times], stops, strict=True)]


def judge(span: ClipSpan, analysis: Analysis, config: DataConfig) -> tuple[Reason, str] | None:
    """(reason, detail) if a clip must not be used, judged by all source frames from its first to its last.

    Frames that could not be decoded at ingest are not judged.
    """
    first, end = _range(span, analysis)
    black, motion = analysis.black[first:end], analysis.motion[first + 1 : end]
    if config.max_black is not None and len(black) and black.mean() > config.max_black:
        return "black", f"{int(black.sum())} of {len(black)} frames are black, data.max_black is {config.max_black:g}"
    if config.min_motion is not None and len(motion) and motion.mean() < config.min_motion:
        return "still", f"motion {motion.mean():.3f}%, data.min_motion is {config.min_motion:g}"
    return None


def _range(span: ClipSpan, analysis: Analysis) -> tuple[int, int]:
    if span.start_frame is not None:
        return span.start_frame, span.start_frame + (span.num_frames - 1) * (span.frame_stride or 1) + 1
    last = span.start_time + (span.num_frames - 1) / (span.frame_rate or 1.0)
    seconds: list[float] = analysis.seconds.tolist()
    first = bisect.bisect_right(seconds, span.start_time + BEFORE_CUT) - 1
    return max(0, first), bisect.bisect_right(seconds, last + BEFORE_CUT)


def pack(analysis: Analysis) -> tuple[dict[str, Any], bytes]:
    """An analysis as a JSON header and raw bytes, for the pipe of the decoding child."""
    data = np.stack(analysis[:4]).tobytes()
    return {"analysis": len(analysis.seconds), "picture": analysis.picture, "bytes": len(data)}, data


def unpack(header: dict[str, Any], data: bytes | memoryview) -> Analysis:
    """What `pack` packed."""
    seconds, score, motion, black = np.frombuffer(data, np.float64).reshape(4, header["analysis"])
    return Analysis(seconds, score, motion, black, tuple(header["picture"]) if header["picture"] else None)
