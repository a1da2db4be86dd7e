"""Schedules by hand, clipping against torch's."""

from __future__ import annotations

import pytest
import torch

from schemas.config.train import OptimConfig
from trainers.optim import clip_gradients, learning_rate


def test_constant() -> None:
    config = OptimConfig(lr=0.5)
    assert [learning_rate(config, step, 10, batch_size=8) for step in (0, 5, 9)] == [0.5, 0.5, 0.5]


def test_warm_up_then_cosine() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule="cosine")
    values = [learning_rate(config, step, 12, batch_size=8) for step in range(13)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4] == 1.0
    assert values[8] == pytest.approx(0.5)
    assert values[6] == pytest.approx(0.5 * (1 + 2**-0.5))
    assert values[12] == pytest.approx(0.0, abs=1e-15)
    assert learning_rate(config, 50, 12, batch_size=8) == pytest.approx(0.0, abs=1e-15), "never rises again"


def _parameters(scale: float) -> list[list[torch.nn.Parameter]]:
    random = torch.Generator().manual_seed(0)
    groups = []
    for shapes in (((3, 5), (7,)), ((11, 2),)):
        group = []
        for shape in shapes:
            parameter = torch.nn.Parameter(torch.zeros(shape))
            parameter.grad = scale * torch.randn(shape, generator=random)
            group.append(parameter)
        group.append(torch.nn.Parameter(torch.zeros(2)))  # without a gradient
        groups.append(group)
    return groups


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clipping_equals_torch(scale: float) -> None:
    ours, theirs = _parameters(scale), _parameters(scale)
    norm = clip_gradients(ours, 1.0)
    flat = [p for group in theirs for p in group]
    wanted = float(torch.nn.utils.clip_grad_norm_(flat, 1.0))
    assert norm == pytest.approx(wanted, rel=1e-6)
    for a, b in zip([p for group in ours for p in group], flat, strict=True):
        if b.grad is None:
            assert a.grad is None
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=2e-6, atol=0)


def test_without_a_bound_it_only_measures() -> None:
    groups = _parameters(100.0)
    before = [p.grad.clone() for group in groups for p in group if p.grad is not None]
    norm = clip_gradients(groups, None)
    assert norm == pytest.approx(float(torch.cat([g.reshape(-1) for g in before]).norm()), rel=1e-6)
    after = [p.grad for group in groups for p in group if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert clip_gradients([[torch.nn.Parameter(torch.zeros(2))]], 1.0) == 0.0
