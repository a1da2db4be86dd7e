"""The step line, and the same numbers in metrics.jsonl, in TensorBoard's event files and at Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from schemas.config.train import TrainConfig
from schemas.errors import UsageError
from trainers.tensorboard import EventWriter
from vtok.console import duration
from vtok.files import write_bytes
from vtok.metrics_log import read_metrics

METRICS_NAME = "metrics.jsonl"
WANDB_ID_NAME = "wandb.id"
"""Holds the name by which Weights & Biases knows the run."""


class Logs:
    """Everywhere that a step's numbers go, as the config says.

    Args:
        folder: the run's folder.
        step: the step to go on from.
        config: which logs.

    Raises:
        UsageError: Weights & Biases is asked for and refuses.
    """

    def __init__(self, folder: Path, step: int, config: TrainConfig) -> None:
        self._metrics = MetricsLog(folder, step)
        self._events = EventWriter(folder / "tensorboard", step) if config.tensorboard else None
        self._wandb: Any = None
        if config.wandb is not None:
            self._wandb = start_wandb(config.wandb, folder, step, config.plain())

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row to each."""
        self._metrics.write(row)
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
        if self._events is not None:
            self._events.write(row["step"], {k: v for k, v in numbers.items() if k not in ("step", "steps")})
        if self._wandb is not None:
            self._wandb.log(numbers)

    def write_counts(self, step: int, counts: dict[str, Int64[np.ndarray, " k"]]) -> None:
        """Adds histograms (`trainers.task.Task.counts`) to TensorBoard's file."""
        if self._events is not None and counts:
            self._events.write_counts(step, counts)

    def close(self) -> None:
        """Says good-bye to Weights & Biases; files need no closing."""
        if self._wandb is not None:
            self._wandb.finish()


def check_wandb(config: TrainConfig) -> None:
    """Looks whether what the config asks for is there, before anything is built.

    Raises:
        UsageError: Weights & Biases is asked for and not installed.
    """
    if config.wandb is None:
        return
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # a folder of that name is no package
        raise UsageError(
            "Weights & Biases is not installed", at="train.wandb", hint="pip install wandb, or set train.wandb=null"
        )


def start_wandb(project: str, folder: Path, step: int, settings: dict[str, Any]) -> Any:
    """A run at Weights & Biases: the same one after a resume, a new one where training begins anew.

    Their own steps only go up, and those after a resume go back to the checkpoint's, so `step` is a number like the
    others, along which the others are drawn.

    Raises:
        UsageError: they refuse, for want of an account say.
    """
    import wandb

    known = folder / WANDB_ID_NAME
    if step == 0 or not known.exists():
        write_bytes(known, uuid.uuid4().hex[:16].encode())
    name = f"{folder.parent.name}-{folder.name}"
    try:
        run = wandb.init(
            project=project, name=name, id=known.read_text(), resume="allow", dir=str(folder), config=settings
        )
    except wandb.Error as error:
        raise UsageError(
            f"Weights & Biases: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            at="train.wandb",
            hint="run `wandb login`, set WANDB_MODE=offline in the environment, or set train.wandb=null",
        ) from error
    run.define_metric("*", step_metric="step")
    return run


class MetricsLog:
    """Appends one JSON object a line; after a resume, lines past the checkpoint are dropped first.

    Args:
        folder: the run's folder.
        step: the step to go on from; lines with a larger `step` are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / METRICS_NAME
        if self.path.exists():
            kept = [row for row in read_metrics(folder) if row["step"] <= step]
            write_bytes(self.path, b"".join(_line(row) for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row; NaN and infinities are written as null."""
        with self.path.open("ab") as stream:
            stream.write(_line(row))


def _line(row: dict[str, Any]) -> bytes:
    safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(safe).encode() + b"\n"


def step_line(title: str, row: dict[str, Any]) -> str:
    """One readable line, e.g. `prior 01250/20000 6.3% loss 5.412 val 5.530 lr 2.9e-04 gnorm 0.71 221k tok/s ...`."""
    step, steps = row["step"], row["steps"]
    parts = [f"{title} {step:0{len(str(steps))}d}/{steps} {100 * step / steps:.1f}%"]
    skip = {"step", "steps", "kind", "lr", "gnorm", "rate", "unit", "mem_gb", "data_fraction", "eta", "seconds", "mfu"}
    parts += [f"{key} {value:.4g}" for key, value in row.items() if key not in skip and isinstance(value, int | float)]
    parts.append(f"lr {row['lr']:.1e} gnorm {row['gnorm']:.2f}")
    parts.append(f"{_short(row['rate'])} {row['unit']}/s")
    if "mfu" in row:
        parts.append(f"MFU {100 * row['mfu']:.1f}%")
    parts.append(f"mem {row['mem_gb']:.1f}G data {100 * row['data_fraction']:.1f}%")
    parts.append(f"eta {duration(row['eta'])}")
    return " ".join(parts)


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.1f}"
