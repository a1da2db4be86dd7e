"""The timeline of a file whose index lists every frame (MP4, MOV, AVI), without reading all of the file.

The index tells when each frame is decoded. When it is displayed, packets tell, of which only the first and the last few
are read. What lies between follows: encoders store a frame with the time at which another one, always as many places
before, is displayed, which the packets at both ends confirm; where they do not, times between are right to within
the reordering of the frames. No gap is a hole: each frame lasts until the next one by the index itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from vtok.video.clock import Stamp
from vtok.video.pictures import Pictures, Second
from vtok.video.timeline import Timeline, make_timeline

_INDEXED = {"mov", "mp4", "avi"}
_REORDERING = 16  # frames; H.264 and HEVC store a frame at most so many places away from where it is shown
_END = 3 * _REORDERING  # packets that are read at either end
_SMALL = 1 << 18  # bytes of frames; a file with no more is read whole


class _Entry(NamedTuple):
    dts: int
    place: int  # in the file
    shown: bool  # not cut off by an edit list


def indexed_timeline(container: InputContainer, stream: VideoStream, interval: float) -> Timeline | None:
    """The timeline by the container's index, less what an edit list cuts off; None where that cannot be trusted.

    Args:
        container: the open file, which is left anywhere.
        stream: one of its streams.
        interval: ticks from frame to frame by the declared rate; 0: unknown.
    """
    if not _INDEXED & set(container.format.name.split(",")) or not stream.frames:
        return None
    if not hasattr(stream, "index_entries"):  # PyAV before 17
        return None
    index = stream.index_entries
    if len(index) < stream.frames:  # a fragmented file indexes only what has been read so far
        return None
    entries, size = [], 0
    for entry in index:
        entries.append(_Entry(entry.timestamp, entry.pos, not entry.is_discard))
        size += entry.size
    shown = [number for number, entry in enumerate(entries) if entry.shown]
    if not shown:
        return None
    if container.format.name == "avi":
        stamps = [entries[number].dts for number in shown]
        return _timeline(stamps, 1, stream, interval)
    first, last = shown[0], shown[-1] + 1
    try:
        if size <= _SMALL or last - first <= 2 * _END:
            packets = _read(container, stream, entries, first, last)
            if len(packets) == len(shown):
                return _timeline([pts for pts, _ in packets], packets[-1].duration, stream, interval)
        head = _read(container, stream, entries, first, min(last, first + _END))
        tail = _read(container, stream, entries, max(first, last - _END), last)
    except _FieldsError:
        return None
    stamps = _between(
        [entry.dts for entry in entries[first:]],
        sorted(pts for pts, _ in head)[:-_REORDERING],
        sorted(pts for pts, _ in tail)[_REORDERING:],
        len(shown),
        interval,
    )
    return _timeline(stamps, tail[-1].duration if tail else 0, stream, interval)


class _FieldsError(Exception):
    """Two packets are one picture, so that the index counts no frames."""


class _Packet(NamedTuple):
    pts: int
    duration: int


def _read(
    container: InputContainer, stream: VideoStream, entries: Sequence[_Entry], first: int, end: int
) -> list[_Packet]:
    """The packets of these entries that are shown; nothing if one of them cannot be had."""
    found: list[_Packet] = []
    pictures = Pictures(container, stream)
    try:
        container.seek(entries[first].dts, stream=stream, any_frame=True)
        packets = container.demux(stream)
        # MOV's seek goes to some frames before: as many as the edit list or the reordering moves them.
        started = itertools.dropwhile(
            lambda packet: packet.pos != entries[first].place, itertools.islice(packets, _END)
        )
        for number, packet in zip(range(first, end), itertools.chain(started, packets), strict=False):
            if packet.pos != entries[number].place or packet.pts is None:
                return []
            picture = pictures.read(packet)
            if isinstance(picture, Second):
                raise _FieldsError
            if picture is not None:
                found.append(_Packet(packet.pts, packet.duration or 0))
            if number + 1 == end:
                return found
    except (av.error.FFmpegError, EOFError) as error:
        if isinstance(error, MemoryError):
            raise
    return []


def _between(dts: Sequence[int], head: Sequence[int], tail: Sequence[int], count: int, interval: float) -> list[int]:
    """The times at which `count` frames are displayed, from the times of decoding and those of display at both ends."""
    tail = tail[max(0, len(head) + len(tail) - count) :]
    known = [*enumerate(head), *enumerate(tail, count - len(tail))]
    start = head[0] if head else 0
    shifts = [(start - time, delay) for delay, time in enumerate(dts[: _REORDERING + 1])]
    shift, delay = shifts[0]
    for try_shift, try_delay in sorted(shifts, key=lambda pair: pair[0] != 0):  # most encoders leave the clock as it is
        if all(dts[rank + try_delay] + try_shift == pts for rank, pts in known if rank + try_delay < len(dts)):
            shift, delay = try_shift, try_delay
            break
    late = [*dts, *(dts[-1] + round(interval * number) for number in range(1, delay + 1))]
    between = [late[rank + delay] + shift for rank in range(len(head), count - len(tail))]
    return sorted([*head, *between, *tail])


def _timeline(stamps: Sequence[int], duration: int, stream: VideoStream, interval: float) -> Timeline:
    """Of time stamps in any order; `duration` is the last frame's, ticks, or 0."""
    times = sorted(stamps)
    lengths = [*(following - time for time, following in itertools.pairwise(times)), duration]
    packets = [Stamp(time, None, length, False) for time, length in zip(times, lengths, strict=True)]
    return make_timeline(packets, [], float(stream.time_base or 0), interval, whole=True)
