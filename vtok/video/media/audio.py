"""The sound of clips: mono, 16 bit, resampled, cut to each clip's time span, in one pass over the audio stream."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from jaxtyping import Int16

from vtok.video.container import describe, open_video
from vtok.video.errors import VideoError

_GAP = 0.01  # seconds; smaller differences between time stamps and samples are rounding. A lost packet is 20 or more


def read_sound(
    path: str | Path, stream_index: int, spans: Sequence[tuple[float, float]], rate: int
) -> list[Int16[np.ndarray, " samples"] | None]:
    """The sound of every span.

    Args:
        path: a file with an audio stream; its first one is read.
        stream_index: the video stream, whose first frame is time 0.
        spans: (start, end) of each clip in ascending order, seconds.
        rate: samples per second of the result.

    Returns:
        For each span round((end - start) * rate) samples, silent where the file has no sound; None where it has none in
        the whole span.

    Raises:
        VideoError: the audio stream cannot be decoded.
    """
    clips = [_Window(round(start * rate), round((end - start) * rate)) for start, end in spans]
    last = max((clip.end for clip in clips), default=0)
    done = 0
    try:
        with open_video(path) as container:
            video = container.streams[stream_index]
            zero = float((video.start_time or 0) * (video.time_base or 0))
            for at, samples in _resampled(container.decode(container.streams.audio[0]), zero, rate):
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
    return [clip.samples for clip in clips]


def _resampled(frames: Iterable[AudioFrame], zero: float, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields `(number of the first sample, samples)`; sample 0 is at `zero` seconds of the frames' time.

    After a gap, or another form of sound, a new resampler begins: the old one holds samples back that belong before it.
    """
    resampler: AudioResampler | None = None
    form: tuple[str, str, int] | None = None
    at, expected = 0, 0.0  # the next sample that comes out; when the next one that goes in should be, seconds
    for frame in frames:
        stamp = expected
        if frame.pts is not None and frame.time_base is not None:
            stamp = float(frame.pts * frame.time_base) - zero
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
