from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vtok.evaluation import classifier
from vtok.evaluation.classifier import (
    MAX_SIZE,
    ClipClassifier,
    classifier_fingerprint,
    classify,
    confusion,
    shrink,
    train_classifier,
)


def _clips(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey squares on noisy backgrounds that move right (0), down (1) or stay (2)."""
    draw = torch.Generator().manual_seed(seed)
    videos, labels = [], torch.arange(count) % 3
    for label in labels.tolist():
        video = torch.rand(3, 1, 1, 1, generator=draw).expand(3, 8, 16, 16).clone() * 0.4 - 0.5
        x, y = torch.randint(0, 5, (2,), generator=draw).tolist()
        for t in range(8):
            top, left = y + t * (label == 1), x + t * (label == 0)
            video[:, t, top : top + 5, left : left + 5] = 0.4
        videos.append(video)
    return torch.stack(videos), labels


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "TRAIN_STEPS", 3)


def test_learns_motion() -> None:
    torch.set_num_threads(1)
    videos, labels = _clips(60, 0)
    model = train_classifier(videos, labels, 3, seed=0)
    held_out, true = _clips(30, 1)
    predicted = classify(model, held_out)
    assert (predicted == true).float().mean() > 0.9
    table = confusion(true, predicted, 3)
    assert table.sum() == 30 and table.trace() == (predicted == true).sum()
    # A single frame does not tell the three motions apart.
    still = held_out[:, :, :1].expand_as(held_out)
    assert (classify(model, still) == true).float().mean() < 0.7


@pytest.mark.usefixtures("few_steps")
def test_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    videos, labels = _clips(12, 0)
    before = torch.get_rng_state()
    first = classifier_fingerprint(train_classifier(videos, labels, 3, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert classifier_fingerprint(train_classifier(videos, labels, 3, seed=0)) == first
    assert classifier_fingerprint(train_classifier(videos, labels, 3, seed=1)) != first


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("size", [(1, 8, 8), (16, 32, 32), (20, 48, 64)])
def test_any_size(size: tuple[int, int, int]) -> None:
    videos = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(0)) - 0.5
    model = train_classifier(videos, torch.tensor([0, 1, 0, 1]), 2, seed=0)
    assert classify(model, videos).shape == (4,)
    assert all(have <= most for have, most in zip(shrink(videos).shape[2:], MAX_SIZE, strict=True))


def test_is_small() -> None:
    model = ClipClassifier(101, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in model.parameters()) <= 200_000


def test_confusion_counts() -> None:
    true, named = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 2])
    assert confusion(true, named, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
