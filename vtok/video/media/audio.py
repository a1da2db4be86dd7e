"""The sound of clips: mono, 16 bit, resampled, cut to each clip's time span, in one pass over the audio stream."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from jaxtyping import Int16

from vtok.video.clock import JUMPY, Clock, Stamp
from vtok.video.container import describe, open_video
from vtok.video.errors import VideoError
from vtok.video.timeline import Timeline, read_timeline

_SHORTEST = 0.02  # seconds that a packet is taken to last that does not say
_GAP = 0.01  # seconds; smaller differences between time stamps and samples are rounding. A lost packet is 20 or more


def read_sound(
    path: str | Path, stream_index: int, spans: Sequence[tuple[float, float]], rate: int
) -> list[Int16[np.ndarray, " samples"] | VideoError | None]:
    """The sound of every span.

    Args:
        path: a file with an audio stream; its first one is read.
        stream_index: the video stream, whose first frame is time 0.
        spans: (start, end) of each clip in ascending order, seconds.
        rate: samples per second of the result.

    Returns:
        For each span round((end - start) * rate) samples, silent where the file has no sound; None where it has none in
        the whole span; VideoError corrupt where some of it cannot be decoded.

    Raises:
        VideoError: the audio stream cannot be read.
    """
    clips = [_Window(round(start * rate), round((end - start) * rate)) for start, end in spans]
    last = max((clip.end for clip in clips), default=0)
    done = 0
    timeline = read_timeline(path, stream_index, seconds=last / rate)
    try:
        with open_video(path) as container:
            reader = _Reader(container, container.streams[stream_index], timeline)
            for at, samples in _resampled(reader.frames(), rate):
                while done < len(clips) and clips[done].end <= at:
                    done += 1
                for clip in clips[done:]:
                    if clip.start >= at + len(samples):
                        break
                    clip.fill(at, samples)
                if at + len(samples) >= last:
                    break
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise VideoError("corrupt", f"the sound cannot be decoded: {describe(error)}") from None
    return [reader.damage_within(clip.start / rate, clip.end / rate) or clip.samples for clip in clips]


class _Heard(NamedTuple):
    frame: AudioFrame
    seconds: float | None  # when it is heard, from the first frame of the video; None: right after the one before


class _Reader:
    """Decodes the sound of a file, by the clock of its pictures.

    Where that clock starts again (`Timeline.seams`), the sound's does, too, though not at the same packet: what is
    stored behind the seam belongs behind it, and so does what comes shortly before it, once the sound's clock has
    started again by itself.
    """

    def __init__(self, container: InputContainer, video: Stream, timeline: Timeline) -> None:
        self._container, self._stream = container, container.streams.audio[0]
        self._seams, shifts = timeline.seams, [shift * timeline.tick for shift in timeline.shifts]
        if not timeline.pts:  # what stands in for time stamps may be as much off as frames are reordered
            start = float((video.start_time or 0) * (video.time_base or 0))
            shifts = [shift - shifts[0] - start for shift in shifts]
        self._shifts = shifts or [0.0]
        self._tick = float(self._stream.time_base or 0)
        self._clock = Clock(self._tick, jumpy=container.format.name in JUMPY)
        self._run, self._ahead = 0, False  # seams passed; whether the sound's clock is over the next one already
        self._lost: list[tuple[float, float, str]] = []

    def frames(self) -> Iterator[_Heard]:
        """All frames that can be decoded."""
        end = 0.0
        for packet in self._container.demux(self._stream):
            shift = self._shift(packet)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                start = end if packet.pts is None else packet.pts * self._tick + shift
                length = max(_SHORTEST, (packet.duration or 0) * self._tick)
                self._lost.append((start, start + length, describe(error)))
                continue
            for frame in frames:
                if frame.pts is None or frame.time_base is None:
                    yield _Heard(frame, None)
                else:
                    end = float(frame.pts * frame.time_base) + shift
                    yield _Heard(frame, end)
                end += frame.samples / frame.sample_rate

    def _shift(self, packet: Packet) -> float:
        """What is added to the packet's time, seconds."""
        before = len(self._clock.starts)
        if packet.pts is not None:
            self._clock.put(Stamp(packet.pts, None, 0, True))
        run = self._run if packet.pos is None else sum(seam <= packet.pos for seam in self._seams)
        if run != self._run:
            self._run, self._ahead = run, False
        elif len(self._clock.starts) > before:
            self._ahead = True
        return self._shifts[min(self._run + self._ahead, len(self._shifts) - 1)]

    def damage_within(self, start: float, end: float) -> VideoError | None:
        """The first packet that could not be decoded and is heard from `start` to `end`, seconds."""
        for lost_start, lost_end, why in self._lost:
            if lost_start < end and lost_end > start:
                return VideoError("corrupt", f"the sound at {max(0.0, lost_start):.3f} s cannot be decoded: {why}")
        return None


def _resampled(heard: Iterable[_Heard], rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields `(number of the first sample, samples)`; sample 0 is heard with the first frame of the video.

    After a gap, or another form of sound, a new resampler begins: the old one holds samples back that belong before it.
    """
    resampler: AudioResampler | None = None
    form: tuple[str, str, int] | None = None
    at, expected = 0, 0.0  # the next sample that comes out; when the next one that goes in should be, seconds
    for frame, seconds in heard:
        stamp = expected if seconds is None else seconds
        if resampler is None or form != _form(frame) or abs(stamp - expected) > _GAP:
            if resampler is not None:
                yield from _numbered(resampler.resample(None), at)
            resampler, form = AudioResampler(format="s16", layout="mono", rate=rate), _form(frame)
            at, expected = round(stamp * rate), stamp
        for first, samples in _numbered(resampler.resample(frame), at):
            yield first, samples
            at = first + len(samples)
        expected += frame.samples / frame.sample_rate
    if resampler is not None:
        yield from _numbered(resampler.resample(None), at)


def _form(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _numbered(pieces: Iterable[AudioFrame], at: int) -> Iterator[tuple[int, np.ndarray]]:
    for piece in pieces:
        samples = piece.to_ndarray().reshape(-1)
        yield at, samples
        at += len(samples)


class _Window:
    """The samples start..end of a clip."""

    def __init__(self, start: int, count: int) -> None:
        self.start, self.end = start, start + count
        self.samples: np.ndarray | None = None

    def fill(self, at: int, samples: np.ndarray) -> None:
        low, high = max(self.start, at), min(self.end, at + len(samples))
        if low < high:
            if self.samples is None:
                self.samples = np.zeros(self.end - self.start, np.int16)
            self.samples[low - self.start : high - self.start] = samples[low - at : high - at]


def wav_bytes(samples: Int16[np.ndarray, " samples"], rate: int) -> bytes:
    """A mono 16-bit WAV file."""
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return sink.getvalue()


def wav_samples(data: bytes) -> Int16[np.ndarray, " samples"]:
    """The samples of a mono 16-bit WAV file.

    Raises:
        ValueError: it is none.
    """
    return wav_sound(data)[0]


def wav_sound(data: bytes) -> tuple[Int16[np.ndarray, " samples"], int]:
    """The samples of a mono 16-bit WAV file, and how many there are in a second.

    Raises:
        ValueError: it is none.
    """
    try:
        with wave.open(io.BytesIO(data), "rb") as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise ValueError("the sound is not mono with 16 bits")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
            return samples, file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"the sound cannot be read: {error}") from error
