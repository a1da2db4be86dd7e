"""Framing and wire format against bytes made by hand, and against every way to damage them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.datasets import making_bair
from vtok.video.errors import VideoError
from vtok.video.media.example import bytes_of, floats_of, read_example
from vtok.video.media.tfrecord import masked_crc, open_record, walk_records

SMALL = making_bair.example(
    {"name": making_bair.raw(b"bytes"), "numbers": making_bair.floats([1.0, -2.5]), "one by one": b""}
)


def test_masked_crc() -> None:
    assert making_bair.crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"123456789", bytes(range(256)) * 5000):  # longer than one block
        assert masked_crc(data).to_bytes(4, "little") == making_bair.masked(data)


def test_an_example() -> None:
    found = read_example(memoryview(SMALL))
    assert list(found) == ["name", "numbers", "one by one"]
    assert [bytes(value) for value in bytes_of(found["name"])] == [b"bytes"]
    np.testing.assert_array_equal(floats_of(found["numbers"]), np.array([1.0, -2.5], np.float32))
    assert floats_of(found["name"]).size == 0 and bytes_of(found["numbers"]) == []
    assert floats_of(memoryview(making_bair.floats([3.0, 4.0], packed=False))).tolist() == [3.0, 4.0]


def test_fields_that_it_does_not_know_are_passed_over() -> None:
    strange = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + making_bair.field(6, b"more")
    found = read_example(memoryview(strange + SMALL + strange))
    assert list(found) == ["name", "numbers", "one by one"]


def test_damaged_examples_are_value_errors_at_every_byte() -> None:
    for at in range(len(SMALL)):
        for value in (SMALL[at] ^ 1, SMALL[at] ^ 0x80, 0xFF, 0):
            damaged = memoryview(SMALL[:at] + bytes([value]) + SMALL[at + 1 :])
            try:
                for feature in read_example(damaged).values():
                    bytes_of(feature)
                    floats_of(feature)
            except ValueError:
                pass  # anything else fails the test
    for data in (b"\x0a", b"\x0a\x05ab", b"\xff" * 20, b"\x0b", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"):
        with pytest.raises(ValueError):
            read_example(memoryview(data))


def test_the_walk_finds_records_without_their_data(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    records = [making_bair.framed(b"x" * size) for size in (0, 1, 5000)]
    path.write_bytes(b"".join(records))
    assert [(r.number, r.offset, r.reject) for r in walk_records(path)] == [(0, 0, None), (1, 16, None), (2, 33, None)]
    for size in range(200):  # cut anywhere
        path.write_bytes(b"".join(records)[:size])
        found = list(walk_records(path))
        whole = (size >= 16) + (size >= 33)
        assert [r.offset for r in found if r.reject is None] == [0, 16][:whole]
        if size not in (16, 33):
            assert found[-1].reject is not None
            assert found[-1].reject[0] == ("missing_frames" if size else "empty")
    assert [r.reject and r.reject[0] for r in walk_records(tmp_path / "gone")] == ["unreadable"]


def test_opening(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    records = [making_bair.framed(making_bair.example(making_bair.features(i, 2))) for i in range(3)]
    path.write_bytes(b"".join(records))
    with open_record(path, f"2@{len(records[0]) * 2}:image_main", 12.5) as opened:
        sequence = opened.sequence
        assert sequence is not None
        assert (sequence.facts.frames, sequence.facts.fps, sequence.facts.codec) == (2, 12.5, "rawvideo")
        assert sequence.bytes == len(records[2]) - 16
        np.testing.assert_array_equal(sequence.read(1), making_bair.frame(2, 1, "image_main"))
        first = sequence.digest()
    with open_record(path, f"1@{len(records[0])}:image_main", 12.5) as opened:
        assert opened.sequence is not None and opened.sequence.digest() != first
    for item, reason in [("2", "changed"), ("0@0:image_side", "no_frames"), ("0@5:image_main", "corrupt")]:
        with pytest.raises(VideoError) as caught, open_record(path, item, 1.0):
            pass
        assert caught.value.reason == reason
    with pytest.raises(VideoError, match="vanished"), open_record(tmp_path / "gone", "0@0:image_main", 1.0):
        pass
