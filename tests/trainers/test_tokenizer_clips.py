"""The clips that the tokenizer trains on: the same whoever decodes them, and changed at random only if asked to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config import Recipe
from schemas.errors import UsageError
from tests.trainers.making import settings
from trainers.tokenizer import RUN_ONLY, TokenizerTask
from trainers.tokenizer_validation import HeldOut


def _task(inputs: Path, **train: Any) -> TokenizerTask:
    tree = settings(inputs, steps=10, engine="plain")
    tree["tokenizer"]["train"] |= train
    return TokenizerTask(Recipe.model_validate(tree), inputs / "tokenizer")


def _batches(inputs: Path, count: int, start: int = 0, **train: Any) -> list[torch.Tensor]:
    stream = _task(inputs, **train).batches(start)
    return [batch.video_bcthw for batch in itertools.islice(stream, count)]


def test_decoding_in_workers_changes_nothing(inputs: Path) -> None:
    alone = _batches(inputs, 6)
    assert all(batch.shape == (4, 3, 4, 16, 16) and batch.dtype == torch.float32 for batch in alone)
    assert not torch.equal(alone[0], alone[1])
    for start in (0, 3):
        shared = _batches(inputs, 6 - start, start, workers=2)
        assert all(torch.equal(a, b) for a, b in zip(alone[start:], shared, strict=True))
    assert "workers" in RUN_ONLY


def test_random_crops_and_mirrors(inputs: Path) -> None:
    plain = _batches(inputs, 4)
    flipped = _batches(inputs, 4, augment={"flip": True})
    mirrored = 0
    for clip, other in zip(torch.cat(plain), torch.cat(flipped), strict=True):
        assert torch.equal(other, clip) or torch.equal(other, clip.flip(-1))
        mirrored += int(torch.equal(other, clip.flip(-1)))
    assert 0 < mirrored < 16
    assert all(batch.shape == (4, 3, 4, 8, 8) for batch in _batches(inputs, 4, augment={"crop": 8, "flip": True}))
    resumed = _batches(inputs, 2, 2, augment={"flip": True}, workers=1)
    assert all(torch.equal(a, b) for a, b in zip(flipped[2:], resumed, strict=True))


def test_held_out_clips_are_never_changed(inputs: Path) -> None:
    held_out = []
    for augment in ({}, {"crop": 8, "flip": True}):
        recipe = _task(inputs, augment=augment).recipe
        held_out.append(HeldOut(recipe, inputs, 4).video_bcthw)
    assert torch.equal(*held_out)


def test_workers_beside_a_gpu_only(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task(inputs)
    task.device = torch.device("cpu")
    assert task._workers() == 0
    task.device = torch.device("cuda")
    monkeypatch.setattr("trainers.tokenizer.cpu_count", lambda: 12)
    assert task._workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert task._workers() == 3
    assert _task(inputs, workers=5)._workers() == 5


def test_fewer_clips_than_a_batch(inputs: Path) -> None:
    with pytest.raises(UsageError, match="fewer than one batch of 400"):
        _batches(inputs, 1, batch_size=400)
