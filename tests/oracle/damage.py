"""Harms files gently: what is lost is known, and nothing that a decoder reads makes it do more than complain."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import av

from tests.oracle.catalogue import Codec
from tests.oracle.encode import changed
from tests.oracle.truth import Truth

_CLUSTER = b"\x1f\x43\xb6\x75"


class Harm:
    """Changes packets before they are written, or the file afterwards; tells `truth` what it did."""

    def __init__(self, rng: random.Random, truth: Truth, codec: Codec, extension: str) -> None:
        self.rng, self.truth, self.codec, self.extension = rng, truth, codec, extension

    def edit(self, packets: list[av.Packet]) -> list[av.Packet]:
        return packets

    def finish(self, path: Path) -> None:
        pass

    def spoil(self, packets: list[av.Packet], place: int) -> None:
        """Packet `place` is gone or garbage: nothing is promised from the key frame before it to the one after it."""
        order = sorted(range(len(packets)), key=lambda i: packets[i].pts or 0)
        rank = {packet: index for index, packet in enumerate(order)}
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        first = max(k for k in keys if k <= place)
        following = [k for k in keys if k > place]
        end = following[0] if following else len(packets)
        touched = {rank[i] for i in range(first, end)}
        if following:  # and the frames of an open GOP that are shown before its key frame
            touched |= {rank[i] for i in range(end, len(packets)) if rank[i] < rank[end]} - {
                rank[i] for i in range(first)
            }
        if self.codec.intra:
            touched = {rank[place]}
        self.truth.free |= touched
        self.truth.lost |= touched


class BadPacket(Harm):
    """One packet is overwritten with zeros from its middle on."""

    headless = False

    def __init__(
        self, rng: random.Random, truth: Truth, codec: Codec, extension: str, share: float | None = None
    ) -> None:
        super().__init__(rng, truth, codec, extension)
        self.share = rng.choice([0.2, 0.5, 0.7]) if share is None else share
        self.in_transport = extension in ("ts", "m2ts")  # whose packets lie in pieces

    def edit(self, packets: list[av.Packet]) -> list[av.Packet]:
        self.place = max(1, round(len(packets) * self.share))
        self.spoil(packets, self.place)
        self.truth.planned = False
        if not self.in_transport:
            return packets
        data = bytearray(bytes(packets[self.place]))
        start, end = self._part(len(data))
        data[start:end] = bytes(end - start)
        return [*packets[: self.place], changed(packets[self.place], bytes(data)), *packets[self.place + 1 :]]

    def finish(self, path: Path) -> None:
        if self.in_transport:
            return
        with av.open(str(path)) as container:
            stored = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        data, victim = bytearray(path.read_bytes()), stored[self.place]
        start, end = self._part(len(victim))
        at = data.index(victim)
        data[at + start : at + end] = bytes(end - start)
        path.write_bytes(data)

    def _part(self, size: int) -> tuple[int, int]:
        return (0, min(64, size)) if self.headless else (size // 3, size)


class HeadlessPacket(BadPacket):
    """The first bytes of one packet are overwritten with zeros."""

    headless = True


def lose_cluster(path: Path, which: int) -> tuple[int, int]:
    """Overwrites a Matroska file's cluster with padding (RFC 8794: Void).

    Returns:
        The time of the lost cluster and of the next one, ms.
    """
    data = bytearray(path.read_bytes())
    places, at = [], 0
    while (at := data.find(_CLUSTER, at)) >= 0:
        places.append(at)
        at += 4
    times = []
    for place in places:
        stamp = place + 4 + _length(data[place + 4])
        stamp += 6 if data[stamp] == 0xBF else 0  # a checksum
        assert data[stamp] == 0xE7
        size = data[stamp + 1] & 0x7F
        times.append(int.from_bytes(data[stamp + 2 : stamp + 2 + size], "big"))
    start, end = places[which], places[which + 1]
    size = end - start - 9
    data[start : start + 9] = b"\xec" + (size | 1 << 56).to_bytes(8, "big")
    data[start + 9 : end] = bytes(size)
    path.write_bytes(data)
    return times[which], times[which + 1]


def _length(first: int) -> int:
    """Bytes of a variable-length number by its first."""
    return 9 - first.bit_length()


DAMAGES: dict[str, tuple[Callable[[random.Random, Truth, Codec, str], Harm], tuple[str, ...]]] = {
    "bad packet": (BadPacket, ("mp4", "mov", "avi", "ts", "mkv")),
    "headless packet": (HeadlessPacket, ("mp4", "mov", "avi", "mkv")),
}
"""Kinds of damage, and the containers in which they are drawn."""
