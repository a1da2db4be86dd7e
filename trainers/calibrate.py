"""`vtok train ... --calibrate`: times a few steps of each alternative on this machine and says which is fastest.

Nothing of the run is read but its inputs, and nothing is written: the alternatives train copies in a temporary folder.
One thing is changed at a time, from the recipe's own settings; the fastest value is kept for what follows.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from schemas.config import Recipe
from schemas.config.train import TrainConfig
from schemas.errors import VtokError
from trainers import engine as engines
from trainers.task import Task
from vtok import console
from vtok.hardware import cpu_count, find_compiler

Kind = Literal["tokenizer", "prior"]

STEPS = 20
WARM_UP = 3


class Timing(NamedTuple):
    """One alternative.

    Attributes:
        settings: what differs from the recipe, by name.
        seconds: median of a step; None where it does not run here.
        memory_gb: peak on the GPU; None on the CPU, where processes do not give memory back.
        problem: why it does not run.
        unit: what a rate counts.
        units: in a batch.
    """

    settings: dict[str, Any]
    seconds: float | None
    memory_gb: float | None = None
    problem: str = ""
    unit: str = ""
    units: float = 0


def calibrate(kind: Kind, recipe: Recipe, *, steps: int = STEPS) -> Iterator[str]:
    """Yields a table line by line, and at its end the overrides that were fastest.

    Args:
        kind: which training.
        recipe: its settings are the first row.
        steps: timed for each alternative, after 3 that are not.

    Raises:
        UsageError: the training's inputs are missing.
    """
    config: TrainConfig = getattr(recipe, kind).train
    best = Timing({}, None)
    yield f"{kind}: {steps} steps of each alternative, {_machine()}"
    tried: set[str] = set()
    for name, values in alternatives(config):
        for value in values:
            settings = {**best.settings, name: value} if name else {}
            if str(sorted(settings.items())) in tried:
                continue
            tried.add(str(sorted(settings.items())))
            timing = _time(kind, recipe, settings, steps)
            yield _row(timing)
            if timing.seconds is not None and (best.seconds is None or timing.seconds < best.seconds):
                best = timing
    if best.seconds is None:
        yield "none of them runs here"
    elif not best.settings:
        yield "the recipe's own settings are the fastest"
    else:
        yield "fastest: " + " ".join(f"{kind}.train.{key}={_shown(value)}" for key, value in best.settings.items())


def alternatives(config: TrainConfig) -> Iterator[tuple[str, list[Any]]]:
    """What is tried, one setting after the other; the first is the recipe as it stands."""
    yield "", [None]
    if not torch.cuda.is_available() and cpu_count() > 1:
        yield "threads", [1, cpu_count()]
    if find_compiler() is not None:
        yield "engine", ["plain", "deepspeed"]
        yield "compile", [not config.compile]
    yield "precision", [name for name in ("bf16", "fp32") if name != config.precision and torch.cuda.is_available()]
    yield "checkpoint_activations", [not config.checkpoint_activations]
    parts = [count for count in (1, 2, 4) if count != config.accumulate and config.batch_size % count == 0]
    yield "accumulate", parts


def _time(kind: Kind, recipe: Recipe, settings: dict[str, Any], steps: int) -> Timing:
    """One alternative, of which nothing is left afterwards: the next one has the memory to itself."""
    section = getattr(recipe, kind)
    train = type(section.train).model_validate({**section.train.plain(), "keep_best": False, **settings})
    changed = recipe.model_copy(update={kind: section.model_copy(update={"train": train})})
    task: Task | None = None
    with tempfile.TemporaryDirectory() as scratch:
        try:
            name = engines.start(train.engine)
            if name != train.engine:
                return Timing(settings, None, problem="DeepSpeed does not start here")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            torch.set_num_threads(cpu_count() if train.threads == "auto" else train.threads)
            task = _make_task(kind, changed, Path(scratch))
            task.build(name)
            seconds = _step_seconds(task, steps)
        except torch.OutOfMemoryError:
            return Timing(settings, None, problem="no memory left")
        except VtokError as error:
            if not settings:
                raise
            return Timing(settings, None, problem=error.what)
        else:
            memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
            return Timing(settings, seconds, memory, unit=task.unit, units=task.units_at(0))
        finally:
            del task
            gc.collect()
            torch.cuda.empty_cache()


def _step_seconds(task: Task, steps: int) -> float:
    times = []
    for step, batch in zip(range(WARM_UP + steps), task.batches(0), strict=False):
        start = time.perf_counter()
        task.train_step(batch, step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def _make_task(kind: Kind, recipe: Recipe, folder: Path) -> Task:
    if kind == "tokenizer":
        from trainers.tokenizer import TokenizerTask

        return TokenizerTask(recipe, folder)
    from trainers.prior import PriorTask
    from vtok.tokens.store import TokenStore

    return PriorTask(recipe, TokenStore(recipe.folder("tokens")), folder)


def _row(timing: Timing) -> str:
    name = " ".join(f"{key}={_shown(value)}" for key, value in timing.settings.items()) or "as in the recipe"
    if timing.seconds is None:
        return f"  {name:<60} -  ({timing.problem})"
    rate = console.short(timing.units / timing.seconds)
    memory = "" if timing.memory_gb is None else f"  {timing.memory_gb:.1f} GB"
    return f"  {name:<60} {1000 * timing.seconds:9.1f} ms/step  {rate:>7} {timing.unit}/s{memory}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU with {console.count(cpu_count(), 'cores')}"
