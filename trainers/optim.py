"""The learning rate as a pure function of the step, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from schemas.config.train import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up to `config.lr`, then constant or cosine to 0.

    Args:
        config: peak, warm-up and schedule.
        step: the batch about to be trained on, from 0.
        steps: batches in the run.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def clip_gradients(groups: Sequence[Iterable[Tensor]], max_norm: float | None) -> float:
    """Scales all gradients in place so that their global L2 norm is at most `max_norm`; returns the norm before.

    The arithmetic (norms in double precision, a norm per parameter group, the reciprocal of the ratio) is the one that
    DeepSpeed's ZeRO uses, so that all engines take bit-equal steps; torch's own clipping differs in the last bit, and
    adversarial training amplifies that.

    Args:
        groups: the parameters of each optimiser group.
        max_norm: the bound; None only measures.
    """
    gradients = [[p.grad for p in group if p.grad is not None] for group in groups]
    norms = [
        torch.stack([torch.linalg.vector_norm(g.double()) for g in group]).pow(2).sum().float().sqrt()
        for group in gradients
        if group
    ]
    if not norms:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm is not None:
        ratio = ((norm + 1e-6) / max_norm).clamp(min=1.0)
        for gradient in (g for group in gradients for g in group):
            gradient.mul_(1.0 / ratio)
    return float(norm)
