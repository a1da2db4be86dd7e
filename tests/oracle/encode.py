"""Encodes drawn frames with PyAV's encoders; packets may be changed on their way into the container."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.oracle.picture import Picture

_MATRIX = {"bt709": 1, "bt601": 5, "bt2020": 9}
_TRANSFER = {"bt709": 1, "bt601": 6, "bt2020": 14}
Edit = Callable[[list[av.Packet]], list[av.Packet]]


@dataclass
class Encoding:
    """How a file is encoded.

    Attributes:
        encoder, pix_fmt, options: of the codec.
        muxer, mux_options: of the container; None: by the file's name.
        time_base: seconds a unit of `stamps`.
        rate: frames per second that the stream declares.
        gop: frames from one key frame to the next.
        tagged: whether matrix and range are written down.
        sar: pixel aspect.
        sound: whether there is a sound track.
        interlaced: whether frames are coded as two fields.
        tag: the codec's four letters in the container.
    """

    encoder: str
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)
    muxer: str | None = None
    mux_options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    gop: int = 12
    tagged: bool = False
    sar: Fraction | None = None
    sound: bool = False
    interlaced: bool = False
    tag: str | None = None


def encode(
    path: Path,
    picture: Picture,
    numbers: Sequence[int],
    stamps: Sequence[int],
    encoding: Encoding,
    edit: Edit | None = None,
) -> Path:
    """Writes frames `numbers`, shown at `stamps` (units of `encoding.time_base`)."""
    with av.open(str(path), "w", format=encoding.muxer, container_options=encoding.mux_options) as container:
        stream: Any = container.add_stream(encoding.encoder, rate=encoding.rate)
        context = stream.codec_context
        stream.height, stream.width = picture.coded.shape
        stream.pix_fmt, stream.options = encoding.pix_fmt, encoding.options
        context.gop_size = encoding.gop
        context.thread_count = 1
        context.time_base = stream.time_base = encoding.time_base
        if encoding.sar is not None:
            context.sample_aspect_ratio = encoding.sar
        if encoding.tag is not None:
            context.codec_tag = encoding.tag
        colours = picture.colours
        if encoding.tagged:
            context.color_range = 2 if colours.full else 1
            if colours.kind == "yuv":
                context.colorspace = _MATRIX[colours.matrix]
                context.color_trc = context.color_primaries = _TRANSFER[colours.matrix]
        sound = _Sound(container, float(stamps[0] * encoding.time_base)) if encoding.sound else None
        packets = []
        for place, (number, stamp) in enumerate(zip(numbers, stamps, strict=True)):
            frame: Any = picture.frame(number, encoding.pix_fmt)
            frame.pts, frame.time_base = stamp, encoding.time_base
            following = stamps[place + 1] if place + 1 < len(stamps) else 2 * stamp - stamps[place - 1]
            frame.duration = max(following - stamp, 0) if len(stamps) > 1 else 1
            if encoding.tagged:
                frame.color_range = context.color_range
                if colours.kind == "yuv":
                    frame.colorspace = context.colorspace
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in edit(packets) if edit else packets:
            if sound:
                sound.until(float((packet.dts or 0) * packet.time_base) + 0.2)
            container.mux(packet)
        if sound:
            sound.end()
    return path


class _Sound:
    """A quiet tone beside the frames."""

    def __init__(self, container: Any, start: float) -> None:
        self.container = container
        ts = container.format.name in ("mpegts", "mpeg", "vob", "svcd", "avi", "asf", "flv", "rm")
        webm = container.format.name in ("webm", "ogg")
        name = "libopus" if webm else ("mp2" if ts else "aac")
        self.rate = 48000 if webm or ts else 16000
        if container.format.name == "flv":
            name, self.rate = "aac", 16000
        self.stream = container.add_stream(name, rate=self.rate, layout="mono")
        self.stream.codec_context.open()
        self.size = self.stream.codec_context.frame_size or 1024
        self.at = int(start * self.rate)

    def until(self, seconds: float) -> None:
        while self.at < seconds * self.rate:
            form = self.stream.codec_context.format.name
            kind = np.float32 if form.startswith("flt") else np.int16
            frame = av.AudioFrame.from_ndarray(np.zeros((1, self.size), kind), format=form, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.at, Fraction(1, self.rate)
            self.at += self.size
            self.container.mux(self.stream.encode(frame))

    def end(self) -> None:
        self.container.mux(self.stream.encode())


def changed(packet: av.Packet, data: bytes) -> av.Packet:
    """A packet with other bytes, in the place of one."""
    new = av.Packet(data)
    new.stream = packet.stream
    new.pts, new.dts, new.duration, new.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    new.is_keyframe = packet.is_keyframe
    return new
