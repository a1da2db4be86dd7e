"""When each frame of a video is displayed: the one model of time, which planning, decoding, sound and analysis share.

Time counts from the first frame of the video, whatever number its stamp has: stamps may be negative (a transport stream
that begins less than a minute before its 33-bit clock runs over), tied (two frames at one time: both count, the later
one is displayed), and they may start again (two transport streams joined with cat).

A **stretch** is a run of frames without a cut in time. It ends where

- a hole follows: the next frame comes more than `_HOLE` seconds, and more than `_HOLE_INTERVALS` usual intervals, after
  the frame before it should have ended, and no packet's duration explains it (a lost Matroska cluster, lost packets of
  a broadcast). The time of later frames stays what their stamps say. A shorter hole is a hold: the frame before it
  stays on display. So is one that a packet's duration explains, as in GIF, or the container's index, as in MP4 and AVI;
- the clock starts again: stamps go back, or jump by more than 10 seconds in a container whose clock may (MPEG-TS
  and program streams: how much is lost there, if anything, nobody knows). Time goes on where the stretch before ended.

Where frames are lost, those behind need what is not there, up to the next key frame, and a decoder may show them all
the same: they are in no segment. H.264 numbers its frames, and so tells a loss from a hold, however short: where the
numbers of reference frames break near a gap, the stretch ends. An index of all frames (MP4, AVI) is believed instead;
its packets are not asked. Of other codecs a hole is taken for a loss where frames come evenly but for that, and a
shorter gap always for a hold: what a single lost packet leaves up to the next key frame is not noticed there.

The usual interval is one that 90 % of a video's intervals do not exceed, so that a screen recording, which holds often,
is not cut to pieces. The last frame of a stretch is displayed for its packet's duration, else as long as the frame
before it, else 1 / frame rate; never longer than `_LAST` seconds and `_HOLE_INTERVALS` usual intervals. A duration of
less than half the shortest interval is none: muxers that only know the rate of a clock write one tick for each frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import av.error
from av.video.stream import VideoStream

from vtok.video.clock import JUMPY, Clock, Stamp
from vtok.video.container import open_video
from vtok.video.errors import VideoError
from vtok.video.losses import Breaks, Numbering, come_evenly
from vtok.video.pictures import NOTHING_SHOWN, Listing, Picture, Second, Shown, has_guessed_stamps

_HOLE = 0.5  # seconds; see above
_HOLE_INTERVALS = 4
_LAST = 10.0  # seconds; see above
BEFORE_CUT = 6e-4
"""Seconds that a stretch or shot ends before the next one is displayed; decoding rounds time stamps up to 5e-4."""
_NEARBY = 16  # frames between a frame's places in the orders of decoding and of display
_REORDERING = 64  # packets; codecs store a frame at most 16 or 32 places away from where it is shown


class Segment(NamedTuple):
    """A stretch of a video that clips are cut from, a shot for example.

    Attributes:
        first: index of its first frame.
        end: index after its last frame.
        start: seconds from the first frame of the video at which its first frame is displayed.
        stop: seconds at which its last frame ends.
    """

    first: int
    end: int
    start: float
    stop: float


class Stretch(NamedTuple):
    """A run of frames without a cut in time.

    Attributes:
        first: rank of its first frame.
        end: rank after its last.
        shift: what, added to a container's time stamp, gives the time from the first frame of the video, ticks.
        stop: time at which its last frame ends, ticks from the first frame of the video.
        usable: rank of its first frame that needs none which is lost; `end`: all of them do.
    """

    first: int
    end: int
    shift: int
    stop: int
    usable: int


class Timeline(NamedTuple):
    """What the packets say about the frames, in presentation order, stretch by stretch.

    Attributes:
        pts: the container's time stamp of every frame, in ticks: what identifies a frame. Any integers; they rise
            within a stretch, ties included, and may start again in the next. Empty where the packets do not carry all
            of them (AVI).
        keys: ranks (indices into `pts`) of the key frames; empty without `pts`.
        frames: number of frames.
        times: when every frame is displayed, ticks from the first frame, never falling; empty where there are no stamps
            at all.
        stretches: the runs of frames between cuts in time; empty without `times`.
        tick: seconds a unit.
        headless: whether the stream begins with frames that need a key frame that is not there.
        shown: which packets the frames are.
        seams: places in the file, bytes, of the packets at which the clock starts again; -1 where unknown.
    """

    pts: list[int]
    keys: list[int]
    frames: int
    times: list[int]
    stretches: list[Stretch]
    tick: float
    headless: bool = False
    shown: Shown = NOTHING_SHOWN
    seams: tuple[int, ...] = ()

    @property
    def seconds(self) -> list[float]:
        """When every frame is displayed, seconds from the first."""
        return [time * self.tick for time in self.times]

    @property
    def shifts(self) -> list[int]:
        """What is added to a container's time stamp, ticks: one from each seam to the next."""
        return [shift for shift, _ in itertools.groupby(stretch.shift for stretch in self.stretches)]

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last; 0 without `times`."""
        return self.stretches[-1].stop * self.tick if self.stretches else 0.0

    @property
    def segments(self) -> list[Segment]:
        """What can be used of the stretches, in seconds; empty without `times`.

        One after which the clock starts again ends a little early: what is sampled at its end is not yet the next one.
        """
        starts = [self.times[stretch.first] * self.tick for stretch in self.stretches]
        nexts = [*(start - BEFORE_CUT for start in starts[1:]), float("inf")][: len(starts)]
        return [
            Segment(usable, end, self.times[usable] * self.tick, min(stop * self.tick, following))
            for (_, end, _, stop, usable), following in zip(self.stretches, nexts, strict=True)
            if usable < end
        ]

    @property
    def displayed(self) -> float:
        """Seconds for which frames are displayed: the duration without the holes."""
        return sum(stretch.stop - self.times[stretch.first] for stretch in self.stretches) * self.tick


def read_timeline(
    path: str | Path, stream_index: int, *, frames: int | None = None, seconds: float | None = None
) -> Timeline:
    """Demuxes the stream without decoding.

    A damaged tail ends the timeline; decoding reports it.

    Args:
        path: the video file.
        stream_index: the stream's index in the file.
        frames, seconds: only the first so many need be right; the timeline ends somewhat behind the later of the two.
            None for both: all of it.
    """
    stamps: list[Stamp] = []
    seams: list[int] = []
    headless, spare = None, _REORDERING
    with open_video(path) as container:
        stream = container.streams[stream_index]
        if not isinstance(stream, VideoStream):
            raise VideoError("changed", f"stream {stream_index} is no video")
        listing = Listing(container, stream)
        guesses: list[int | None] = []
        tick, rate = float(stream.time_base or 0), stream.average_rate or stream.guessed_rate
        interval = 1 / (float(rate) * tick) if rate and tick else 0.0
        is_mov = "mov" in container.format.name.split(",")
        guessed, limited = has_guessed_stamps(container), frames is not None or seconds is not None
        clock = Clock(tick, jumpy=container.format.name in JUMPY)
        numbering = Numbering(stream, _HOLE / tick if tick else 0.0, interval)
        breaks = Breaks(stream, interval)
        try:
            for packet in container.demux(stream):
                if headless is None:
                    headless = not packet.is_keyframe
                found = listing.put(packet)
                if isinstance(found, Second) and stamps:
                    stamps[-1] = stamps[-1]._replace(duration=stamps[-1].duration + (packet.duration or 0))
                if not isinstance(found, Picture):
                    continue
                pts, dts = packet.pts, packet.dts
                if guessed:  # one after the other, as they are stored: their order is not that of display
                    guesses.append(pts)
                    pts, dts = None, pts if dts is None else dts
                numbering.put(packet, len(stamps))
                stamps.append(Stamp(pts, dts, packet.duration or 0, packet.is_keyframe))
                clock.put(stamps[-1])
                restarts = len(clock.starts) > len(seams)
                breaks.put(packet, len(stamps) - 1, restarts=restarts)
                if restarts:
                    seams.append(-1 if packet.pos is None else packet.pos)
                if limited and len(stamps) > (frames or 0) and (not seconds or clock.reached * tick > seconds):
                    spare -= 1
                    if spare == 0:
                        break
        except (av.error.InvalidDataError, EOFError):
            pass
    if is_mov and stamps:
        stamps = lasting(stamps)
    shown = listing.shown()
    # The guesses tell where a gap is displayed; without one, what is stored tells all, and they begin a frame early.
    if guesses and listing.reads_types and shown.rising and not _are_even(stamps):
        stamps = [stamp._replace(pts=pts) for stamp, pts in zip(stamps, guesses, strict=True)]
    timeline = make_timeline(
        stamps,
        clock.starts,
        tick,
        interval,
        headless=bool(headless),
        whole=container.format.name == "avi",
        continued=numbering.continued,
        lost=frozenset() if guessed else breaks.lost,
    )
    if guesses:  # right for times, perhaps, but they tell no frame from another
        timeline = timeline._replace(pts=[], keys=[])
    return timeline._replace(shown=shown, seams=tuple(seams))


def _are_even(stamps: Sequence[Stamp]) -> bool:
    """Whether packets are stored at even times."""
    times = [stamp.dts for stamp in stamps]
    known = [time for time in times if time is not None]
    return len(known) == len(times) and len({b - a for a, b in itertools.pairwise(known)}) <= 1


def lasting(stamps: Sequence[Stamp]) -> list[Stamp]:
    """The packets of an MP4, whose durations lead from one time of decoding to the next: the last one is the end's."""
    at = max(range(len(stamps)), key=lambda number: (stamps[number].pts or 0, number))
    return [*stamps[:at], stamps[at]._replace(duration=stamps[-1].duration), *stamps[at + 1 :]]


def make_timeline(
    stamps: Sequence[Stamp],
    starts: Iterable[int],
    tick: float,
    interval: float,
    *,
    headless: bool = False,
    whole: bool = False,
    continued: frozenset[int] | None = None,
    lost: frozenset[int] = frozenset(),
) -> Timeline:
    """The timeline of packets.

    Args:
        stamps: one a picture, in the order of the file.
        starts: numbers of the packets at which the clock starts again.
        tick: seconds a unit of time stamps.
        interval: ticks from frame to frame by the declared rate; 0: unknown.
        headless: see `Timeline`.
        whole: the container's index lists all frames, so that no gap is a hole.
        continued: numbers of packets before which nothing is lost, however late they are; None: the codec does not say.
        lost: numbers of packets before which a frame is lost that later ones need, however short the gap.
    """
    told = all(stamp.pts is not None for stamp in stamps)
    if not stamps or not tick or all(stamp.pts is None and stamp.dts is None for stamp in stamps):
        return Timeline([], [], len(stamps), [], [], tick, headless)
    bounds = [0, *starts, len(stamps)]
    runs = [_in_order(stamps, first, end, interval) for first, end in itertools.pairwise(bounds) if end > first]
    usual = _HOLE_INTERVALS * _usual(runs)
    hole, longest = float("inf") if whole else max(_HOLE / tick, usual), round(max(_LAST / tick, usual))
    times: list[int] = []
    stretches: list[Stretch] = []
    broken: set[int] = set()  # ranks of the first frames that need lost ones
    for run in runs:
        at = stretches[-1].stop if stretches else 0
        broken.update(len(times) + place for place in _broken(run, lost))
        shift, first = at - run[0].pts, len(times)
        for number, shown in enumerate(run):
            times.append(shown.pts + shift)
            # The hole before a frame is no interval that it could last.
            lasts = (
                run[number - 1].duration if number and first + 1 == len(times) and not shown.told else shown.duration
            )
            lasts, last = min(lasts, longest), number + 1 == len(run)
            is_hole = not last and run[number + 1].pts - shown.pts - lasts > hole
            if last or len(times) in broken or (is_hole and not _is_explained(run, number, hole)):
                stretches.append(Stretch(first, len(times), shift, times[-1] + lasts, first))
                first = len(times)
    shown_stamps = [shown for run in runs for shown in run]
    if len(stretches) > 1:
        even = continued is None and come_evenly(
            [b.pts - a.pts for run in runs for a, b in itertools.pairwise(run)], tick
        )
        for i, stretch in enumerate(stretches[1:], 1):
            needs_lost = stretch.first in broken or stretches[i - 1].usable == stretch.first
            if needs_lost or _follows_loss(stretch, shown_stamps, continued, even=even):
                stretches[i] = _usable(stretch, shown_stamps)
    keys = [rank for rank, shown in enumerate(shown_stamps) if shown.key] if told else []
    pts = [shown.pts for shown in shown_stamps] if told else []
    return Timeline(pts, keys, len(stamps), times, stretches, tick, headless)


class _Shown(NamedTuple):
    pts: int
    told: int  # duration by its packet, ticks; 0: none
    duration: int  # for how long it is displayed if it is the last one, or a hole follows
    key: bool
    number: int  # of its packet


def _in_order(packets: Sequence[Stamp], first: int, end: int, interval: float) -> list[_Shown]:
    """A run's frames in the order of their display.

    Where a packet lacks its time of display, times of decoding stand in for all: in order, they are as far apart.
    """
    stamps = packets[first:end]
    told = all(stamp.pts is not None for stamp in stamps)
    known = [stamp.pts if told else stamp.dts for stamp in stamps]
    found: list[_Shown] = []
    # Matroska shows no stamps below zero: what has none is as far from its neighbours as it lasts.
    lead = next((number for number, stamp in enumerate(known) if stamp is not None), 0)
    at = (known[lead] or 0) - sum(stamp.duration or round(interval) for stamp in stamps[:lead])
    for number, (value, stamp) in enumerate(zip(known, stamps, strict=True), first):
        if value is not None:
            at = value
        found.append(_Shown(at, stamp.duration, 0, stamp.key, number))
        at += stamp.duration or round(interval)
    found.sort(key=lambda shown: shown.pts)
    gaps = [b.pts - a.pts for a, b in itertools.pairwise(found) if b.pts > a.pts]
    shortest, before = min(gaps, default=0), 0
    for number, shown in enumerate(found):
        length = shown.told if 2 * shown.told >= shortest else 0
        gap = shown.pts - found[number - 1].pts if number else 0
        before = length or gap or before or shortest or round(interval)
        found[number] = _Shown(shown.pts, length, before, shown.key, shown.number)
    return found


def _broken(run: Sequence[_Shown], lost: frozenset[int]) -> list[int]:
    """Places in the run, in the order of display, at which frames begin that need lost ones; none: a key frame follows.

    A frame that is stored behind the loss may be shown before it: the next frame to be stored was predicted from it.
    """
    if not lost:
        return []
    stored = sorted(range(len(run)), key=lambda place: run[place].number)
    found: list[int] = []
    for at, place in enumerate(stored):
        if run[place].number in lost:
            behind = itertools.takewhile(lambda later: not run[later].key, stored[at + 1 : at + 2 * _NEARBY])
            first = min([place, *behind])
            if first and not run[first].key:
                found.append(first)
    return found


def _follows_loss(stretch: Stretch, shown: Sequence[_Shown], continued: frozenset[int] | None, *, even: bool) -> bool:
    """Whether the hole before the stretch is a loss."""
    if continued is None:
        return even
    return min(shown[rank].number for rank in range(stretch.first, stretch.end)) not in continued


def _usable(stretch: Stretch, shown: Sequence[_Shown]) -> Stretch:
    """Without the frames that need some which are lost before the stretch."""
    frames = range(stretch.first, stretch.end)
    return stretch._replace(usable=next((rank for rank in frames if shown[rank].key), stretch.end))


def _is_explained(run: Sequence[_Shown], number: int, hole: float) -> bool:
    """Whether a packet nearby lasts as long as the gap after this frame.

    Containers give durations to packets in the order of decoding, so that it need not be this frame's.
    """
    nearby = run[max(0, number - _NEARBY) : number + _NEARBY + 2]
    return run[number + 1].pts - run[number].pts - max(shown.told for shown in nearby) <= hole


def _usual(runs: Iterable[Sequence[_Shown]]) -> int:
    """An interval between frames that 90 % of them do not exceed, ticks; 0 without any."""
    gaps = sorted(b.pts - a.pts for run in runs for a, b in itertools.pairwise(run))
    return gaps[int(0.9 * (len(gaps) - 1))] if gaps else 0
