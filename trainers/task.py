"""What the loop needs to know of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from trainers.engine import Engine, EngineName


class Task(ABC):
    """Models, data and losses of one training. The loop owns time: cadence, logging, checkpoints, failures.

    Attributes:
        name: `tokenizer` or `prior`.
        unit: what the rate counts, e.g. `clips` or `tok`.
        units_per_batch: how many of them a whole batch holds, over all ranks.
        seed: of the run; torch's global generators are seeded from it and the step before every step (dropout).
    """

    name: str
    unit: str
    units_per_batch: int
    seed: int

    @abstractmethod
    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        """Makes the models and wraps them (`trainers.engine.make_engine`)."""

    @abstractmethod
    def batches(self, start_step: int) -> Iterator[Any]:
        """The batches of steps start_step, start_step + 1, ... for this rank, without end."""

    @abstractmethod
    def timing_step(self, batch: Any) -> None:
        """The heaviest part of a step on a copy of the model, without consequences. `batch`: one part of a batch."""

    @abstractmethod
    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """Trains on one batch; returns `loss`, `lr`, `gnorm` and whatever else is worth a line.

        Every engine's `backward` is called once for each of `micro_batches(batch, train.accumulate)`, then `step`.
        """

    @abstractmethod
    def validate(self, step: int) -> dict[str, float]:
        """Measures on held-out clips and writes previews; with the averaged weights where an average is kept."""

    def counts(self) -> dict[str, Int64[np.ndarray, " k"]]:
        """Histograms of the last validation, by name: how often each of the integers 0, 1, ... occurred."""
        return {}

    def score(self, validated: dict[str, float]) -> float | None:
        """How good a validation was: the lower the better. None: this training has no best checkpoint."""
        return validated.get("val")

    def receipt(self, step: int) -> tuple[str, dict[str, Any]] | None:
        """What the epoch that ended with this many steps handed out, a line for people and a row for logs; None: no
        epoch ended here, or nothing keeps count. Called on all ranks after every step."""
        return None

    def units_at(self, step: int) -> float:
        """Units of a batch that a step is trained on, or their mean where chance decides."""
        return self.units_per_batch

    def flops_per_unit(self, step: int) -> float | None:
        """Floating-point operations of a step's forward and backward pass per unit, for the MFU; None: not known."""
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the step and the engines: JSON-compatible, the same on all ranks."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave, before `batches` is called.

        Raises:
            UsageError: it was saved over other data.
        """
        return


def micro_batches(batch: Any, parts: int) -> list[Any]:
    """A rank's share of a batch in `parts` equal parts along the first axis.

    Args:
        batch: a tensor, None, a list of strings, or a (named) tuple, list or dict of such; None stays None.
        parts: as many as `train.accumulate`.
    """
    if parts == 1:
        return [batch]
    if batch is None:
        return [None] * parts
    if isinstance(batch, Tensor):
        return list(batch.split(batch.shape[0] // parts))
    if _is_text(batch):
        share = len(batch) // parts
        return [batch[i * share : (i + 1) * share] for i in range(parts)]
    if isinstance(batch, Mapping):
        split = {key: micro_batches(value, parts) for key, value in batch.items()}
        return [{key: split[key][i] for key in split} for i in range(parts)]
    columns = [micro_batches(value, parts) for value in batch]
    rows = [[column[i] for column in columns] for i in range(parts)]
    if hasattr(batch, "_fields"):
        return [type(batch)(*row) for row in rows]
    return [type(batch)(row) for row in rows]


def _is_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def texts_of(batch: Any) -> dict[str, list[str]]:
    """The lists of strings in a named tuple, e.g. the clips' names, by field."""
    fields = getattr(batch, "_fields", ())
    return {name: value for name, value in zip(fields, batch, strict=True) if _is_text(value)} if fields else {}


def tensors_of(batch: Any, name: str = "batch") -> dict[str, torch.Tensor]:
    """Every tensor of a batch under a dotted name, so that a bad batch can be saved and looked at."""
    if isinstance(batch, Tensor):
        return {name: batch.detach().cpu().contiguous()}
    if isinstance(batch, Mapping):
        items = list(batch.items())
    elif hasattr(batch, "_fields"):
        items = list(zip(batch._fields, batch, strict=True))
    elif isinstance(batch, list | tuple):
        items = list(enumerate(batch))
    else:
        return {}
    return {key: tensor for index, value in items for key, tensor in tensors_of(value, f"{name}.{index}").items()}
