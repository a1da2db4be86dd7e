"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

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
