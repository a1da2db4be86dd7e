"""What a training says when it cannot go on: a value that is no number, no memory left, a rank that is gone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from schemas.config.train import TrainConfig
from schemas.errors import VtokError
from trainers.engine import Engine
from trainers.precision import LossScale
from trainers.ranks import rank, world_size
from trainers.task import tensors_of, texts_of
from vtok.console import size

_NAMES = {"loss": "loss", "gnorm": "gradient norm (gnorm)", "d_gnorm": "discriminators' gradient norm (d_gnorm)"}
_GONE = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket", "gloo", "nccl", "timed out")


def save_bad_batch(folder: Path, batch: Any, step: int) -> Path | None:
    """Writes the tensors of a batch that a value was not finite on, the clips' names in the file's metadata; None if
    it has none or the disk is full."""
    tensors = tensors_of(batch)
    path = folder / f"bad-batch-step-{step:08d}-rank{rank()}.safetensors"
    if not tensors:
        return None
    try:
        names = {name: json.dumps(texts) for name, texts in texts_of(batch).items()}
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata=names)
    except OSError:
        return None
    return path


def broken(values: Mapping[str, Any], scales: Iterable[LossScale] = ()) -> str | None:
    """The name of the first value that is no finite number, or None.

    Args:
        values: of a step or a validation.
        scales: of the engines: where one is dynamic a gradient norm tells of a step that was skipped, which is no
            fault unless there is nothing left to lower.
    """
    skips = any(scale.dynamic for scale in scales) and not any(scale.exhausted for scale in scales)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value) and not (skips and name in ("gnorm", "d_gnorm")):
            return name
    return None


def not_finite(name: str, value: float, step: int, folder: Path, saved: int, batch: Path | None) -> VtokError:
    """The error for a value of a step that is no number."""
    where = f"; the batch is in {batch.name}" if batch else ""
    return VtokError(
        f"the {_NAMES.get(name, name)} is {value} at step {step}{where}",
        at=str(folder),
        hint=f"lower the learning rate; the last checkpoint is of step {saved}",
    )


@contextmanager
def explained(engines: Mapping[str, Engine], config: TrainConfig, section: str) -> Iterator[None]:
    """Turns torch's out-of-memory error, and the loss of another rank, into an error that says what to do.

    Args:
        engines: for the memory table.
        config: the present settings.
        section: of the recipe, e.g. `prior.train`.

    Raises:
        VtokError: in their place.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        table = memory_table(engine.module for engine in engines.values())
        raise VtokError(
            f"the GPU has no memory left\n{table}",
            at=section,
            hint=_memory_hint(config, section),
        ) from error
    except RuntimeError as error:  # torch.distributed's errors are RuntimeErrors
        text = str(error).lower()
        if world_size() == 1 or not any(sign in text for sign in _GONE):
            raise
        raise VtokError(
            f"another training process is gone ({str(error).splitlines()[0]})",
            at=f"rank {rank()} of {world_size()}",
            hint="see what that process said; the same command goes on from the last checkpoint",
        ) from error


def _memory_hint(config: TrainConfig, section: str) -> str:
    """The settings that help against a want of memory and are not yet set so: those that a run can go on with, and
    those that make another run of it."""
    share, parts = config.batch_size // world_size(), config.accumulate
    more = next((count for count in (2 * parts, *range(parts + 1, share + 1)) if share % count == 0), None)
    split = [] if more is None else [f"{section}.accumulate={more} (now {parts})"]
    free = [] if config.checkpoint_activations else [f"{section}.checkpoint_activations=true (now false)"]
    stage = 3 if section == "prior.train" and config.precision != "fp16" else 2
    if world_size() > 1 and config.engine == "deepspeed" and config.zero_stage < stage:
        free.append(f"{section}.zero_stage={stage} (now {config.zero_stage})")
    anew = [f"{section}.precision=bf16 (now fp32)"] if config.precision == "fp32" else []
    anew += [f"a lower {section}.batch_size (now {config.batch_size})"] if config.batch_size > world_size() else []
    if section == "prior.train":
        free = split + free
    else:  # statistics of a batch are taken over its parts
        anew = split + anew
    hints = [f"set {', or '.join(free)}; the same command then goes on from the last checkpoint"] if free else []
    hints += [f"with another `out`, as it makes another run: {', or '.join(anew)}"] if anew else []
    return "; ".join(hints or ["make the model smaller, or train on a GPU with more memory"])


def memory_table(modules: Iterable[torch.nn.Module]) -> str:
    """What the memory of this process's GPU is used for, a line each: weights, gradients, optimiser, all the rest."""
    parameters = [p for module in modules for p in module.parameters()]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in parameters if p.grad is not None)
    moments = 2 * sum(p.numel() * 4 for p in parameters if p.requires_grad)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    rows = {"weights": weights, "gradients": gradients, "optimiser (at most)": moments}
    if peak:
        rows["activations and the rest"] = max(0, peak - weights - gradients - moments)
        rows["peak"] = peak
        rows["the GPU has"] = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    width = max(len(name) for name in rows)
    return "\n".join(f"  {name:<{width}}  {size(count):>10}" for name, count in rows.items())
