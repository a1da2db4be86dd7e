"""Decodes a video stream with PyAV from its beginning, or from a key frame on, and says which frame is which.

Every packet is given a number instead of its time stamp, and the frame that comes of it carries that number out of the
decoder: so a frame is known by its packet, whatever the container's time stamps are like, and one that the decoder
leaves out is noticed instead of moving all later ones up. What is damaged costs the frames up to the next key frame;
from there on everything is intact again, and has its right number.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtok.video.clock import JUMPY, LEAP
from vtok.video.container import describe
from vtok.video.errors import VideoError
from vtok.video.ffv1 import SliceChecksums
from vtok.video.pictures import Landing, Picture, Pictures, Second

HEADLESS = "the stream does not begin with a key frame"
LOST = "the decoder gives no picture for it"
DAMAGED = "damaged data"
_DELAY = 32  # pictures that wait at most to be shown; H.264 and HEVC store one at most 16 places early
_UNORDERED = "after damaged data nobody knows which frame is which in this stream"
_MARGINS = {True: (1.0, 4.0), False: (0.0, 1.0)}  # seconds that seeking aims before a key frame, one try after another


class LostCountError(Exception):
    """After a jump the frames cannot be told from each other."""


class Found(NamedTuple):
    """A frame that is shown.

    Attributes:
        number: its index in the order of display.
        frame: what the decoder gave; None if nothing.
        problem: why it cannot be sound; None: it is.
        packet: the number of the packet that it begins in, among the stream's packets.
        repeat: whether `frame` is the one before once more, because this one is not coded.
    """

    number: int
    frame: VideoFrame | None
    problem: str | None
    packet: int
    repeat: bool = False


class Reading:
    """One reading of a stream.

    Args:
        path: the video file, which `container` has open.
        container: where the stream is in.
        stream: a video stream.
        landing: the key frame to begin at; None: the beginning of the file.
    """

    def __init__(
        self, path: str | Path, container: InputContainer, stream: VideoStream, landing: Landing | None = None
    ) -> None:
        self._path, self._container, self._stream, self._landing = path, container, stream, landing
        self._pictures = Pictures(container, stream)
        self._waiting: list[tuple[tuple[int, ...], int]] = []  # order and packet of pictures that have not come out
        self._repeats: dict[int, bool] = {}  # of the packets in `_waiting`: whether they repeat the one before
        self._ordered = True
        self._gappy = container.format.name in JUMPY
        self._checksums = SliceChecksums() if stream.codec.canonical_name == "ffv1" else None
        self._damage: dict[int, str] = {}  # packets after which nothing is sound up to a key frame, and why
        self._last: VideoFrame | None = None
        self._landed = landing is None
        self.at = landing.rank if landing else 0
        """The number of the next frame."""

    def frames(self) -> Iterator[Found]:
        """The frames in order of display, without a gap.

        Raises:
            VideoError: reading failed, or the file ends within a frame; the frames before have been yielded.
            LostCountError: the landing cannot be found.
        """
        failure: VideoError | None = None
        number = picture = -1  # of the packet; of the packet in which its picture begins
        packets = iter(self._container.demux(self._stream)) if self._landing is None else self._seek(self._landing)
        late = self._container.format.name == "mpegts"
        checked = _checked(packets) if late else zip(packets, itertools.repeat(None))
        while True:
            try:
                packet, damaged = next(checked)
                if damaged is None:
                    damaged = packet.is_corrupt
            except StopIteration:
                break
            except MemoryError:
                raise
            except (av.error.FFmpegError, EOFError) as error:
                failure = VideoError("corrupt", f"after frame {self.at}: {describe(error)}")
                break
            if not packet.size:
                break
            if self._checksums is not None:
                damaged = damaged or self._checksums.are_wrong(bytes(packet))
            number += 1
            found = self._pictures.read(packet)
            if number == 0:
                self._begin(packet, found)
            if isinstance(found, Picture):
                picture = number
                self._put(number, found)
            elif found is None:
                picture = number
            packet.pts = picture
            if damaged:
                if packet.is_corrupt and (packet.pos or 0) + packet.size >= Path(self._path).stat().st_size:
                    failure = VideoError("missing_frames", f"the file ends within frame {self.at}")
                    break
                self._damage.setdefault(picture, DAMAGED)
            for frame in self._decode(packet, picture):
                due = self._due(frame)
                if due is not None:
                    yield self._next(frame, None, due)
                else:
                    yield from self._came(frame)
        for _ in range(self._pictures.swallowed if self._landed else 0):
            yield self._next(None, LOST, picture)
        for frame in self._decode(None, picture):
            yield from self._came(frame)
        if failure is not None:
            raise failure
        if not self._landed:
            raise LostCountError
        while self._waiting:
            yield self._left_out(heapq.heappop(self._waiting)[1])

    def _begin(self, packet: av.Packet, found: Picture | Second | None) -> None:
        """Pictures of H.264 that are shown before the first key frame may need what is not there, and do not say so."""
        ruins = self._pictures.may_begin_with_ruins and isinstance(found, Picture)
        if not packet.is_keyframe or ruins:
            self._damage[-1] = HEADLESS

    def _put(self, number: int, picture: Picture) -> None:
        if picture.order is None:
            self._ordered = False
        elif self._ordered:
            heapq.heappush(self._waiting, (picture.order, number))
        self._repeats[number] = picture.repeat
        if picture.ruined:
            for other in list(itertools.islice(reversed(self._repeats), _DELAY)):
                self._damage[other] = DAMAGED

    def _decode(self, packet: av.Packet | None, picture: int) -> list[VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except (av.error.FFmpegError, EOFError) as error:
            self._damage.setdefault(picture, describe(error))
            return []

    def _why(self, number: int) -> str | None:
        return next((why for at, why in self._damage.items() if at <= number), None)

    def _due(self, frame: VideoFrame) -> int | None:
        """The packet of a frame that came when it was due, as nearly all do in a sound file."""
        number = frame.pts
        if self._damage or not self._landed or not self._waiting or self._waiting[0][1] != number or frame.is_corrupt:
            return None
        heapq.heappop(self._waiting)
        del self._repeats[number]
        return number

    def _came(self, frame: VideoFrame) -> Iterator[Found]:
        number = frame.pts
        if not self._ordered:
            number = self.at if number is None else number
            yield self._next(frame, self._problem(frame, number), number)
            return
        if number not in self._repeats:
            return  # of a packet that is not shown, or that came too late and has been taken for lost
        while True:
            other = heapq.heappop(self._waiting)[1]
            if other == number:
                break
            if self._landed:
                yield self._left_out(other)
            elif other == 0:  # what comes before is of no use, but this is the key frame
                raise LostCountError
            else:
                del self._repeats[other]
        del self._repeats[number]
        problem = self._problem(frame, number)
        if not self._landed:
            if number != 0:
                return
            if not frame.key_frame or problem is not None:
                raise LostCountError
            self._landed = True
        yield self._next(frame, problem, number)

    def _problem(self, frame: VideoFrame, number: int) -> str | None:
        """Why a frame is not sound. What is damaged spoils what is decoded after it, until a key frame is shown."""
        if frame.is_corrupt:
            self._damage.setdefault(number, DAMAGED)
        if not self._damage:
            return None
        if not self._ordered and any(at >= 0 for at in self._damage):
            return _UNORDERED
        if frame.key_frame and number not in self._damage:
            # What has been shown before a key frame, or left out, is nothing that those behind it are predicted from.
            # But where whole packets may be lost, a damaged one tells only where: what is gone may be shown later.
            self._damage = {
                at: why
                for at, why in self._damage.items()
                if at > number and (at in self._repeats or (self._gappy and why != LOST))
            }
        return self._why(number)

    def _left_out(self, number: int) -> Found:
        """A picture that the decoder gives no frame for: the one before once more, or lost."""
        repeat = self._repeats.pop(number)
        if repeat and self._last is not None:
            return self._next(self._last, self._why(number), number)._replace(repeat=True)
        self._damage.setdefault(number, LOST)
        return self._next(None, self._why(number), number)

    def _next(self, frame: VideoFrame | None, problem: str | None, packet: int) -> Found:
        self.at += 1
        self._last = frame
        return Found(self.at - 1, frame, problem, packet)

    def _seek(self, landing: Landing) -> Iterator[av.Packet]:
        """The packets from the landing's on, which is looked for: where a seek leads is up to the container.

        Raises:
            LostCountError: it does not come.
        """
        tick = float(self._stream.time_base or 1)
        for margin in _MARGINS[self._container.format.name in JUMPY]:
            aim = landing.time - round(margin / tick) if margin else landing.pts
            self._container.seek(aim, stream=self._stream, backward=True)
            packets = iter(self._container.demux(self._stream))
            for packet in packets:
                if packet.is_keyframe and (packet.pts, packet.dts) == (landing.pts, landing.dts):
                    yield packet
                    yield from packets
                    return
                if packet.size == 0 or (packet.dts is not None and packet.dts > landing.pts):
                    break
        raise LostCountError


def _checked(packets: Iterator[av.Packet]) -> Iterator[tuple[av.Packet, bool]]:
    """Packets of a transport stream, and whether they are damaged.

    There it is said one packet early, because the parser hands a picture out when it meets the next one. The counters
    break off where files are joined, too, and nothing is lost if the clock starts again.
    """
    held: av.Packet | None = None
    early = False
    for packet in packets:
        if held is not None:
            yield held, not _starts_again(held, packet)
            held = None
        if early and packet.size:
            held = packet
        else:
            yield packet, False
        early = packet.is_corrupt
    if held is not None:
        yield held, True


def _starts_again(before: av.Packet, packet: av.Packet) -> bool:
    """Whether a packet is a key frame by another clock than the one before."""
    if before.dts is None or packet.dts is None or not packet.is_keyframe:
        return False
    seconds = float((packet.dts - before.dts) * packet.time_base)
    return not 0 <= seconds < LEAP
