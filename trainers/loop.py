"""THE training loop. Read this first.

A `Task` knows its models, data and losses; the loop owns time: threads, step lines, validation, checkpoints, resume and
interruption. The batch of a step is a pure function of the step, and every random draw is keyed by it, so a resumed run
repeats an undisturbed one bit by bit on the CPU.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from schemas.card import Plan
from schemas.config.train import TrainConfig
from schemas.errors import VtokError
from trainers import checkpoint
from trainers.engine import Engine, EngineName, average, rank, start
from trainers.metrics import MetricsLog, step_line
from vtok import console
from vtok.files import write_json
from vtok.hardware import choose_threads

SETTINGS_NAME = "_settings.json"
"""What was decided when the run first started (engine, threads): a resumed run must not decide otherwise."""


class Task(Protocol):
    """What is trained."""

    name: str
    unit: str
    """What the rate counts, e.g. `clips` or `tok`."""
    units_per_batch: int

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        """Makes the models and wraps them."""

    def batches(self, start_step: int) -> Iterator[Any]:
        """The batches of steps start_step, start_step + 1, ... for this rank, without end."""

    def timing_step(self, batch: Any) -> None:
        """The heaviest part of a step on a copy of the model, without consequences."""

    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """Trains on one batch; returns `loss`, `lr`, `gnorm` and whatever else is worth a line."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures on held-out clips and writes previews."""


def run(task: Task, config: TrainConfig, plan: Plan, folder: Path, *, resume: str) -> None:
    """Trains until `config.steps` batches are done.

    Args:
        task: what to train.
        config: cadence and engine.
        plan: the plan of the artefact; checkpoints carry its fingerprint.
        folder: the run's folder (its plan is written already).
        resume: `auto`, `never` or the path of a checkpoint.

    Raises:
        VtokError: the loss is not finite, or a checkpoint cannot be written.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint of the last finished step was saved first.
    """
    settings = _read_settings(folder)
    found = checkpoint.find(folder, resume, task.name, plan.fingerprint)
    if found is None:  # a run that starts anew may take another engine, but not another number of threads
        settings = {key: value for key, value in settings.items() if key == "threads"}
        checkpoint.set_aside(folder)
    engine = start(settings.get("engine", config.engine))
    if engine != settings.get("engine", engine):
        raise VtokError(
            f"the checkpoints were written by the {settings['engine']} engine, which does not start here",
            at=str(folder),
            hint="install a C++ compiler (g++), or start anew with --resume never",
        )
    engines = task.build(engine)
    step = 0
    if found is not None:
        path, state = found
        for name, item in engines.items():
            item.load(path / name)
        step = int(state["step"])
        console.say(f"{task.name}: resumed at step {step} from {path}")
    batches = task.batches(step)
    threads = settings.get("threads", config.threads)
    if threads == "auto":
        threads = _time_threads(task, batches_from=step)
    torch.set_num_threads(int(threads))
    settings = {"engine": engine, "threads": int(threads)}
    if rank() == 0:
        write_json(folder / SETTINGS_NAME, settings)
        console.say(f"{task.name}: engine {engine}, {console.count(threads, 'threads')}, {config.steps} steps")
    log = MetricsLog(folder, step) if rank() == 0 else None
    saved = step

    def save() -> None:
        checkpoint.save(folder, task.name, step, engines, {"plan": plan.fingerprint}, config.keep_checkpoints)

    meter = _Meter(task, config.steps, step)
    with _interruptible() as interrupted:
        while step < config.steps:
            waiting = time.perf_counter()
            batch = next(batches)
            meter.waited += time.perf_counter() - waiting
            values = average(task.train_step(batch, step))
            step += 1
            if not math.isfinite(values["loss"]):
                raise VtokError(
                    f"the loss is {values['loss']} at step {step}",
                    at=str(folder),
                    hint=f"lower the learning rate; the last checkpoint is of step {saved}",
                )
            validated: dict[str, float] = {}
            if step % config.validate_every == 0 or step == config.steps:
                validated = task.validate(step)
                meter.validated(validated)
            if log is not None and (validated or step % config.log_every == 0 or step == 1):
                row = meter.row(step, {**values, **validated})
                log.write(row)
                console.say(step_line(task.name, row))
            if step % config.checkpoint_every == 0 or step == config.steps or interrupted.is_set():
                save()
                saved = step
            if interrupted.is_set():
                raise KeyboardInterrupt


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _time_threads(task: Task, batches_from: int) -> int:
    batch = next(task.batches(batches_from))
    return choose_threads(lambda: task.timing_step(batch))


class _Meter:
    """Rate, waiting, memory and time left since the last line."""

    def __init__(self, task: Task, steps: int, step: int) -> None:
        self.task, self.steps = task, steps
        self.waited = 0.0
        self._last_step, self._last_time = step, time.perf_counter()
        self._start = self._last_time
        self._validation = 0.0
        self._rate = 0.0

    def validated(self, values: dict[str, float]) -> None:
        """Validation time does not count towards the rate."""
        self._validation += values.pop("seconds", 0.0)

    def row(self, step: int, values: dict[str, float]) -> dict[str, Any]:
        """The numbers of a step line."""
        now = time.perf_counter()
        elapsed = max(now - self._last_time - self._validation, 1e-9)
        trained = step - self._last_step
        if trained:
            self._rate = trained / elapsed
        waited = min(1.0, self.waited / elapsed)
        self._last_step, self._last_time, self.waited, self._validation = step, now, 0.0, 0.0
        left = (self.steps - step) / self._rate if self._rate else 0.0
        return {
            "step": step,
            "steps": self.steps,
            **values,
            "rate": self._rate * self.task.units_per_batch,
            "unit": self.task.unit,
            "mem_gb": _memory_gb(),
            "data_fraction": waited,
            "eta": left,
            "seconds": now - self._start,
        }


def _memory_gb() -> float:
    """Peak memory: of the GPU where there is one, else resident memory of this process. GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns SIGINT and SIGTERM into a flag that the loop looks at between two steps. A second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handler(signum: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        console.note("stopping after this step and saving (once more: stop at once)")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)
