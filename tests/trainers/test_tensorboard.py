"""The event files are what TensorBoard reads: records with right checksums, messages with right fields."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from tests.trainers.making import losses
from tests.trainers.tiny_task import train
from trainers.tensorboard import EventWriter


def records(path: Path) -> list[bytes]:
    """The records of a TFRecord file, checksums verified."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
        found.append(data[12 : 12 + length])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(found[-1])
        data = data[16 + length :]
    return found


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) % 2**32


def fields(message: bytes) -> list[tuple[int, Any]]:
    """(number, value) of a protobuf message."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        value: Any
        match key & 7:
            case 0:
                value = varint()
            case 1:
                (value,) = struct.unpack("<d", message[at : at + 8])
                at += 8
            case 2:
                size = varint()
                value = message[at : at + size]
                at += size
            case 5:
                (value,) = struct.unpack("<f", message[at : at + 4])
                at += 4
        found.append((key >> 3, value))
    return found


def scalars(path: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for record in records(path):
        event = dict(fields(record))
        if 5 in event:
            values = [dict(fields(value)) for number, value in fields(event[5]) if number == 1]
            found[event[2]] = {value[1].decode(): value[2] for value in values}
    return found


def test_scalars_by_step(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5, "val": -1.0})
    writer.write(300, {"loss": 0.5})
    assert scalars(writer.path) == {1: {"loss": 2.5, "val": -1.0}, 300: {"loss": 0.5}}
    first = dict(fields(records(writer.path)[0]))
    assert first[3] == b"brain.Event:2" and first[1] > 1.7e9


def histograms(path: Path) -> dict[int, dict[str, dict[int, Any]]]:
    """Fields of the histograms, by step and name."""
    found: dict[int, dict[str, dict[int, Any]]] = {}
    for record in records(path):
        event = dict(fields(record))
        for _, message in fields(event.get(5, b"")):
            value = dict(fields(message))
            if 5 in value:
                found.setdefault(event[2], {})[value[1].decode()] = dict(fields(value[5]))
    return found


def test_histograms_of_counts(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, 0)
    many = np.arange(1025)
    writer.write_counts(7, {"usage": np.array([5, 2, 0, 1]), "many": many})
    found = histograms(writer.path)
    assert list(found) == [7] and list(found[7]) == ["usage", "many"]
    usage = found[7]["usage"]
    assert [usage[number] for number in (1, 2, 3, 4, 5)] == [0, 4, 8, 5, 11], "least, most, number, sums of 0, 1, 2, 3"
    assert np.frombuffer(usage[6], "<f8").tolist() == [1, 2, 3, 4]
    assert np.frombuffer(usage[7], "<f8").tolist() == [5, 2, 0, 1]
    limits, buckets = (np.frombuffer(found[7]["many"][number], "<f8") for number in (6, 7))
    assert len(limits) == len(buckets) == 342 and limits[0] == 3 and limits[-1] == 1025
    assert buckets[0] == 0 + 1 + 2 and buckets[-1] == 1023 + 1024 and buckets.sum() == many.sum()


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    EventWriter(tmp_path, 0).write(9, {"loss": 1.0})
    again = EventWriter(tmp_path, 4)
    assert len(list(tmp_path.iterdir())) == 2
    event = dict(fields(records(again.path)[1]))
    assert event[2] == 5 and fields(event[7]) == [(1, 1)], "SessionLog.START at step 5 discards steps from 5 on"


def test_a_training_writes_them_unless_told_not_to(tmp_path: Path) -> None:
    train(tmp_path / "with", steps=3, log_every=2)
    (path,) = (tmp_path / "with" / "tensorboard").iterdir()
    found, rows = scalars(path), losses(tmp_path / "with")
    assert sorted(found) == sorted(rows) == [1, 2, 3]
    assert abs(found[2]["loss"] - rows[2]["loss"]) < 1e-6
    assert "val" in found[3] and "steps" not in found[3]
    train(tmp_path / "without", steps=1, tensorboard=False)
    assert not (tmp_path / "without" / "tensorboard").exists()
