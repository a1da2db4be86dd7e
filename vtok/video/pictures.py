"""Which packets of a stream are pictures that are shown, and in which order, before anything is decoded.

Most packets are one picture each, shown when their time stamp says. Not all:

- what an edit list cuts off, and frames that only others are predicted from (VP8), are not shown;
- H.264 may have one field a packet: two of them are one picture;
- MPEG-4 has pictures that are not coded: the one before is shown again;
- AVI, ASF, MPEG program streams and raw streams do not store a time stamp with every picture (nor does Matroska below
  zero), and FFmpeg's guesses are wrong where pictures are shown in another order than they are stored in. There the
  order is read from the bitstream (MPEG-1, MPEG-2, MPEG-4, H.264); other codecs' pictures are shown as they are stored.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtok.video.clock import JUMPY, Clock, Stamp
from vtok.video.h264 import H264, Slice
from vtok.video.mpeg import Mpeg4, Mpeg12

_NO_TIMESTAMPS = 0x0080  # AVFMT_NOTIMESTAMPS
_GUESSING = {"avi", "asf", "mpeg"}  # formats that store fewer time stamps than pictures, or none
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_REORDERED = {"hevc", "vvc", "vc1", "wmv3", "rv30", "rv40", "cavs"}  # whose order is not read from the bitstream here
_LENIENT = {"mjpeg", "mjpegb"}
EXPLODE = {"err_detect": "explode"}
"""Option of FFmpeg's decoders: fail on errors."""
_VP8_SHOWN = 0x10
_BEGINS = 512  # bytes of a packet that, but for long user data, hold the header of its first slice
_RECENT = 16  # pictures; one is stored at most so many places away from where it is shown
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "avi"}  # formats whose stamps cannot start again


class Picture(NamedTuple):
    """A packet that begins a picture which is shown.

    Attributes:
        order: sorts the pictures of a stream as they are shown; None where nobody knows.
        repeat: whether it only repeats the picture shown before it.
        ruined: whether its order cannot be read, so that it and those that have not been shown are in any order.
    """

    order: tuple[int, ...] | None
    repeat: bool = False
    ruined: bool = False


class Second:
    """A packet with the second field of the picture before it."""


class Pictures:
    """Reads the packets of one stream, in the order of the file, from its beginning or from a key frame.

    Args:
        container: where the stream is in.
        stream: a video stream.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        context = stream.codec_context
        self._codec = stream.codec.canonical_name
        self._guessed = has_guessed_stamps(container)
        self._extradata = extradata = bytes(context.extradata or b"")
        self._recent: dict[int, tuple[av.Packet, int]] = {}  # by time stamp: a packet and its number
        self._mpeg = Mpeg4(extradata) if self._codec == "mpeg4" else Mpeg12() if self._is_mpeg12() else None
        self._h264 = H264(extradata) if self._codec == "h264" else None
        self._looks = self._h264 is not None and (self._guessed or self._h264.has_fields)
        self._vp8 = self._codec == "vp8"
        self._first: Slice | None = None  # the field that waits for its other half
        self._count = self._anchors = self._starts = self._placed_start = self._top = 0
        tick, name = float(stream.time_base or 0), container.format.name
        self._clock = None if self._guessed or name in _INDEXED else Clock(tick, jumpy=name in JUMPY)

    def _is_mpeg12(self) -> bool:
        return self._codec in ("mpeg1video", "mpeg2video")

    @property
    def ordered_by_types(self) -> bool:
        """Whether the order is that of the pictures' types."""
        return self._mpeg is not None

    @property
    def may_begin_with_ruins(self) -> bool:
        """Whether the decoder may show pictures that need others from before the first key frame, and not say so."""
        return self._h264 is not None

    @property
    def swallowed(self) -> int:
        """Pictures that the decoder loses if no packet follows; they belong before the last one."""
        return self._mpeg.swallowed if isinstance(self._mpeg, Mpeg4) else 0

    def read(self, packet: av.Packet) -> Picture | Second | None:
        """What a packet is; None if nothing of it is shown."""
        self._count += 1
        if packet.size == 0 or packet.is_discard:
            return None
        if packet.pts is None and self._count == 1:  # Matroska shows no stamps below zero
            self._guessed, self._looks = True, self._h264 is not None
        if self._vp8:
            return self._stamped(packet) if memoryview(packet)[0] & _VP8_SHOWN else None
        if self._mpeg is not None:
            return self._by_type(packet)
        if self._looks:
            return self._by_slice(packet)
        return self._stamped(packet)

    def _stamped(self, packet: av.Packet) -> Picture:
        if self._guessed:
            return Picture(None if self._codec in _REORDERED else (self._count,))
        if self._clock is not None:  # what comes behind does not belong among those before
            self._clock.put(Stamp(packet.pts, packet.dts, 0, packet.is_keyframe))
            self._starts = len(self._clock.starts)
        place: tuple[int, ...] = (self._count,)
        if self._h264 is not None and packet.pts is not None:
            place = self._among_twins(packet, packet.pts)
        return self._placed(packet.pts, place)

    def _placed(self, order: int | None, place: tuple[int, ...] = ()) -> Picture:
        if order is None:
            return Picture((self._starts, self._top, self._count), ruined=True)
        self._top = order if self._placed_start != self._starts else max(order, self._top)
        self._placed_start = self._starts
        return Picture((self._starts, order, *(place or (self._count,))))

    def _among_twins(self, packet: av.Packet, pts: int) -> tuple[int, ...]:
        """Two pictures at one time are shown as they are stored, unless the bitstream says otherwise."""
        twin = self._recent.pop(pts, None)
        if len(self._recent) == _RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[pts] = packet, self._count
        if twin is not None:
            reader = H264(self._extradata)
            first, second = (reader.read(bytes(memoryview(each)[:_BEGINS])) for each in (twin[0], packet))
            if first and second and not second.idr and (second.order or 0) < (first.order or 0):
                return (twin[1] - 1, self._count)
        return (self._count,)

    def _by_type(self, packet: av.Packet) -> Picture:
        assert self._mpeg is not None
        coded = None if self._mpeg.reads_all else self._mpeg.read(bytes(memoryview(packet)[:_BEGINS]))
        if coded is None:
            coded = self._mpeg.read(bytes(packet))
        if coded is not None and coded.late:
            return Picture((self._anchors, 0, self._count), not coded.coded)
        self._anchors += 1
        order = self._anchors, 1, self._count
        return Picture(order, ruined=True) if coded is None else Picture(order, not coded.coded)

    def _by_slice(self, packet: av.Packet) -> Picture | Second:
        assert self._h264 is not None
        slice_, first = self._h264.read(bytes(packet)), self._first
        self._first = None
        if slice_ is None:
            return self._placed(None) if self._guessed else self._stamped(packet)
        if not slice_.whole:
            if first is not None and _are_one(first, slice_):
                return Second()
            self._first = slice_
        if not self._guessed:
            return self._stamped(packet)
        if slice_.idr:
            self._starts += 1
        return self._placed(slice_.order)


def _are_one(first: Slice, second: Slice) -> bool:
    """Whether two fields are one picture (section 7.4.1.2.4; the second field of an IDR picture is none)."""
    return first.parity != second.parity and first.frame_num == second.frame_num and not second.idr


def has_guessed_stamps(container: InputContainer) -> bool:
    """Whether the stamps of packets are FFmpeg's guess, for want of stored ones."""
    return container.format.name in _GUESSING or bool(container.format.flags & _NO_TIMESTAMPS)


def may_have_fields(stream: VideoStream, frame: VideoFrame) -> bool:
    """Whether packets may be fields: by the stream's configuration, or by a frame of it."""
    context = stream.codec_context
    if stream.codec.canonical_name != "h264":
        return False
    return frame.interlaced_frame or H264(bytes(context.extradata or b"")).has_fields


def is_lenient(stream: VideoStream) -> bool:
    """Whether the stream's decoder must be told to fail on errors, because it does not mark what it shows instead."""
    return stream.codec.canonical_name in _LENIENT


class Landing(NamedTuple):
    """A key frame that decoding can jump to, and how to tell its packet.

    Attributes:
        rank: its place among the frames as they are shown.
        pts, dts: of its packet, units of the stream's time base.
    """

    rank: int
    pts: int
    dts: int | None

    @property
    def time(self) -> int:
        """When its packet is decoded, or, where that is not known, shown."""
        return self.pts if self.dts is None else self.dts


class Shown(NamedTuple):
    """The pictures of a stream as they are shown.

    Attributes:
        places: the number of every picture's packet among the packets of the stream; empty: nobody knows the order.
        landings: key frames that can be told from all others, by rank.
        repeats: ranks of the pictures that repeat the one before.
        rising: whether time stamps alone tell every picture, in order.
        doubtful: whether pictures may be missing where nothing says so: some are shown before the first one that is
            stored, the last ones are packed into others (Xvid), or the order of one cannot be read.
        timeless: whether the format has no time stamps at all, so that programs make their own.
        indexed: whether the container has an index, so that seeking leads to the key frame that is meant.
        lenient: whether the decoder shows damaged pictures as sound ones unless it is told not to (`EXPLODE`).
    """

    places: list[int]
    landings: list[Landing]
    repeats: frozenset[int]
    rising: bool
    doubtful: bool
    timeless: bool
    indexed: bool
    lenient: bool


NOTHING_SHOWN = Shown([], [], frozenset(), rising=False, doubtful=False, timeless=True, indexed=False, lenient=False)


class Listing:
    """Lists the pictures of a stream.

    Args:
        container: where the stream is in.
        stream: a video stream.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._pictures = Pictures(container, stream)
        self._timeless = bool(container.format.flags & _NO_TIMESTAMPS)
        self._indexed = container.format.name in _SEEKABLE
        self._lenient = is_lenient(stream)
        self._packets, self._ended = 0, False
        self._found: list[tuple[tuple[int, ...] | None, int, int | None, bool]] = []  # order, packet, pts, repeat
        self._ruined = False
        self._keys: dict[int, tuple[int, int | None]] = {}

    @property
    def reads_types(self) -> bool:
        """Whether the order is that of the pictures' types, so that FFmpeg's guesses that agree with it are right."""
        return self._pictures.ordered_by_types

    def put(self, packet: av.Packet) -> Picture | Second | None:
        """Takes the next packet, and says what it is; see `Pictures.read`."""
        number = self._packets
        self._packets += packet.size > 0
        self._ended = packet.size == 0
        picture = self._pictures.read(packet)
        if not isinstance(picture, Picture):
            return picture
        self._ruined = self._ruined or picture.ruined
        self._found.append((picture.order, number, packet.pts, picture.repeat))
        if packet.is_keyframe and packet.pts is not None:
            self._keys[number] = packet.pts, packet.dts
        return picture

    def shown(self) -> Shown:
        """All that has been put."""
        if any(order is None for order, _, _, _ in self._found):
            return NOTHING_SHOWN._replace(timeless=self._timeless, lenient=self._lenient)
        self._found.sort(key=lambda found: found[:2])
        places = [number for _, number, _, _ in self._found]
        stamps = [pts for _, _, pts, _ in self._found if pts is not None]
        rising = len(stamps) == len(places) and all(map(int.__lt__, stamps, stamps[1:]))
        ranks = {number: rank for rank, number in enumerate(places)}
        landings = sorted(Landing(ranks[number], *stamps) for number, stamps in self._keys.items())
        times = Counter(self._keys.values())
        if any(count > 1 for count in times.values()) or landings != sorted(landings, key=lambda key: key.time):
            landings = []  # a clock that starts again: seeking by time leads anywhere
        repeats = frozenset(rank for rank, (_, _, _, repeat) in enumerate(self._found) if repeat)
        doubtful = self._ruined or ranks.get(0, 0) > 0 or (self._ended and self._pictures.swallowed > 0)
        return Shown(places, landings, repeats, rising, doubtful, self._timeless, self._indexed, self._lenient)
