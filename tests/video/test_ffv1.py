"""FFV1 says nothing of damage: what its slices' checksums tell."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from tests.video.making import numbers, write_video
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.ffv1 import SliceChecksums
from vtok.video.probe import probe

SIDE, COUNT, GROUP = 96, 40, 10


def _write(path: Path, **options: str) -> Path:
    return write_video(path, COUNT, codec="ffv1", options=options, size=(SIDE, SIDE), gop=GROUP)


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def _shown(path: Path, decoder: Literal["pyav", "ffmpeg"]) -> list[int | None]:
    facts = probe(path)
    spans = [ClipSpan(i, 1, i / 25, (i + 1) / 25, None, 1) for i in range(facts.frames)]
    found = dict(decode_clips(path, facts, spans, resolution=SIDE, decoder=decoder))
    return [None if isinstance(c, VideoError) else numbers(c)[0] for c in (found[i] for i in range(len(spans)))]


@pytest.mark.parametrize("options", [{"slices": "4", "slicecrc": "1", "level": "3"}, {"slices": "4", "level": "3"}])
def test_every_changed_bit_is_noticed(options: dict[str, str], tmp_path: Path) -> None:
    packets = _packets(_write(tmp_path / "a.mkv", **options))
    sound = SliceChecksums()
    assert not any(sound.are_wrong(packet) for packet in packets)
    random = np.random.default_rng(0)
    for packet in packets:
        place, changed = int(random.integers(8 * len(packet))), bytearray(packet)
        changed[place // 8] ^= 1 << place % 8
        assert sound.are_wrong(bytes(changed))


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0", "slices": "4"}])
def test_without_checksums_nothing_is_called_damaged(options: dict[str, str], tmp_path: Path) -> None:
    packets = _packets(_write(tmp_path / "a.mkv", **options))
    unknown = SliceChecksums()
    assert not any(unknown.are_wrong(packet) for packet in packets)
    assert not unknown.are_wrong(packets[0][:-1] + b"?")


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_a_damaged_packet_costs_the_frames_up_to_the_next_key_frame(
    decoder: Literal["pyav", "ffmpeg"], tmp_path: Path
) -> None:
    path = _write(tmp_path / "a.mkv", slices="4", slicecrc="1", level="3")
    data, packet = bytearray(path.read_bytes()), _packets(path)[13]
    place = bytes(data).index(packet) + len(packet) // 2
    data[place] ^= 0x10
    path.write_bytes(data)
    assert _shown(path, decoder) == [*range(13), *[None] * 7, *range(20, COUNT)]
