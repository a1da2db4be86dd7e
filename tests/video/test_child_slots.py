"""Clips in shared memory: the same arrays as through the pipe, and never one over another."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.making import write_video
from tests.video.test_child import _rows, _run
from vtok.video import child_slots
from vtok.video.child import DecodeChild
from vtok.video.child_slots import Slots

CLIPS = [np.full((2, 4, 4, 3), number, np.uint8) for number in range(3)]


@pytest.fixture
def sides() -> Iterator[tuple[Slots, Slots]]:
    """The parent's and the child's view of the same memory."""
    parent = Slots.create()
    child = Slots.inherited(parent.arguments)
    for side in (parent, child):
        side.grow(CLIPS[0].nbytes)
    yield parent, child
    parent.close()


def test_a_slot_is_written_again_only_when_its_clip_was_taken(sides: tuple[Slots, Slots]) -> None:
    parent, child = sides
    assert [child.put(clip) for clip in CLIPS[:2]] == [0, 1]
    later: list[int | None] = []
    third = threading.Thread(target=lambda: later.append(child.put(CLIPS[2])))
    third.start()  # waits for a free slot
    first = parent.take(0, CLIPS[0].shape)
    third.join(60)
    assert later == [0]
    assert (first == CLIPS[0]).all(), "a copy: what is written into the slot later does not change it"
    assert (parent.take(1, CLIPS[1].shape) == CLIPS[1]).all()
    assert (parent.take(0, CLIPS[2].shape) == CLIPS[2]).all()


def test_it_grows_for_larger_clips_and_takes_smaller_ones(sides: tuple[Slots, Slots]) -> None:
    parent, child = sides
    large = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    assert child.put(large) is None
    for side in sides:
        side.grow(large.nbytes)
    for clip in (large, CLIPS[1], large[:, ::2, ::2]):
        number = child.put(clip)
        assert number is not None
        assert (parent.take(number, clip.shape) == clip).all()


def test_a_broken_child_cannot_take_the_memory_away(sides: tuple[Slots, Slots]) -> None:
    parent, child = sides
    assert child.handles is not None
    with pytest.raises(PermissionError):
        os.ftruncate(child.handles[0], 0)
    assert child.put(CLIPS[1]) == 0
    assert (parent.take(0, CLIPS[1].shape) == CLIPS[1]).all()


def no_memory(*arguments: Any) -> int:
    raise OSError("no such system call")


@pytest.mark.parametrize("lacking", ["memory", "room"])
def test_without_it_clips_go_through_the_pipe(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "a.mp4", 40, size=(96, 96))
    rows = _rows(video, [0, 8, 16, 24])
    with DecodeChild() as child:
        shared = dict(_run(child, video, rows))
        assert child._slots.size == 8 * 96 * 96 * 3
    if lacking == "memory":
        monkeypatch.setattr(os, "memfd_create", no_memory)
    else:
        monkeypatch.setattr(child_slots, "_LARGEST", 1000)
    with DecodeChild() as child:
        piped = dict(_run(child, video, rows))
        assert child._slots.size == 0
    assert shared.keys() == piped.keys() == set(range(4))
    for number, clip in shared.items():
        assert np.array_equal(clip.frames_thwc, piped[number].frames_thwc)
