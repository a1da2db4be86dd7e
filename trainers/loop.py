"""THE training loop. Read this first.

A `Task` knows its models, data and losses; the loop owns time: threads, step lines, validation, checkpoints, resume,
interruption and failures. The batch of a step is a pure function of the step, and every random draw is keyed by it, so
a resumed run repeats an undisturbed one bit by bit on the CPU.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from schemas.card import Plan
from schemas.config.train import TrainConfig
from schemas.errors import UsageError
from trainers import checkpoint
from trainers.engine import Engine, EngineName, Layout, average, rank, start, world_size
from trainers.failures import broken, explained, not_finite, save_bad_batch
from trainers.meter import Meter
from trainers.metrics import Logs, check_wandb, step_line
from trainers.pace import Pace
from trainers.ranks import ranks_here
from trainers.task import Task, micro_batches
from vtok import console
from vtok.files import write_json
from vtok.hardware import choose_threads, cpu_count
from vtok.seeds import derive

SETTINGS_NAME = "_settings.json"
"""The engine that runs, and how many threads were chosen at first: a resumed run must not choose otherwise."""

CADENCE = {"engine", "zero_stage", "threads", "log_every", "validate_every", "validate_clips", "checkpoint_every"}
CADENCE |= {"keep_checkpoints", "keep_best", "tensorboard", "wandb", "checkpoint_activations", "compile"}
"""Options of `TrainConfig` that leave the weights as they are, but for rounding, and so do not belong to a plan."""


def run(task: Task, config: TrainConfig, plan: Plan, folder: Path, *, resume: str) -> None:
    """Trains until `config.steps` batches are done. After it the modules hold what is to be exported: on every rank
    the whole weights, averaged where an average is kept.

    Args:
        task: what to train.
        config: cadence and engine.
        plan: the plan of the artefact; checkpoints carry its fingerprint.
        folder: the run's folder (its plan is written already).
        resume: `auto`, `never` or the path of a checkpoint.

    Raises:
        UsageError: the batch does not divide by ranks and parts.
        VtokError: a value of a step is not finite, memory is short, a rank is gone, or a checkpoint cannot be written.
        KeyboardInterrupt: SIGINT or SIGTERM came to one of the ranks; a checkpoint of the last finished step was saved.
    """
    check_batch(task.name, config)
    check_wandb(config)
    settings = _read_settings(folder)
    found = checkpoint.find(folder, resume, task.name, plan.fingerprint)
    if found is None:
        checkpoint.set_aside(folder)
    engine = start(config.engine)
    engines: dict[str, Engine] = {}
    step = 0
    with explained(engines, config, f"{task.name}.train"):
        engines.update(task.build(engine))
        if found is not None:
            step = _restore(task, engines, *found)
        threads = settings.get("threads", "auto") if config.threads == "auto" else config.threads
        if threads == "auto":
            threads = _choose_threads(task, step, config)
        elif found is not None and settings.get("threads", threads) != threads and rank() == 0:
            console.note(
                f"{task.name}: {console.count(int(threads), 'threads')} from here on, {settings['threads']} until now: "
                "losses may differ in their last bits"
            )
    batches = task.batches(step)
    torch.set_num_threads(int(threads))
    settings = {"engine": engine, "threads": int(threads)}
    logs = None
    if rank() == 0:
        write_json(folder / SETTINGS_NAME, settings)
        console.say(
            f"{task.name}: {_describe(engine, config)}, {console.count(threads, 'threads')}, {config.steps} steps"
        )
        hint = gpu_hint(task.name, config, fresh=found is None)
        if hint is not None:
            console.note(hint)
        logs = Logs(folder, step, config)
    saved, best = step, checkpoint.best_score(folder) if found is not None else math.inf
    meter = Meter(task, config.steps, step)
    pace = Pace(task.name, int(threads)) if config.threads == "auto" and _alone_on_cpu(config) else None
    receipts: list[tuple[str, dict[str, Any]]] = []
    with _interruptible() as interrupted, explained(engines, config, f"{task.name}.train"):
        while step < config.steps:
            waiting = time.perf_counter()
            batch = next(batches)
            meter.waited += time.perf_counter() - waiting
            begun = time.perf_counter()
            torch.manual_seed(derive(task.seed, "step", step, rank()))
            values = task.train_step(batch, step)
            if pace is not None and (slower := pace.slower(time.perf_counter() - begun)) is not None:
                part = micro_batches(batch, config.accumulate)[0]
                pace.look_into(slower, lambda part=part: task.timing_step(part))  # type: ignore[misc]
            # One rank that was told to stop stops all of them after the same step.
            values = average({**values, "stop": float(interrupted.is_set())})
            stopping = values.pop("stop") > 0
            fault = broken(values, [item.scale for item in engines.values()])
            if fault is not None:  # nothing of this step may get into a checkpoint
                bad = save_bad_batch(folder, batch, step + 1)
                raise not_finite(fault, values[fault], step + 1, folder, saved, bad)
            for item in engines.values():
                if item.average is not None:
                    item.average.update(step)
            step += 1
            receipt = task.receipt(step)
            if receipt is not None:
                receipts.append(receipt)
            validated: dict[str, float] = {}
            better = False
            if step % config.validate_every == 0 or step == config.steps:
                with averaged(engines):
                    validated = task.validate(step)
                meter.validated(validated)
                score = _score(task, validated, step)
                better = config.keep_best and score is not None and score < best
                best = min(best, score) if score is not None else best
            if logs is not None and (validated or step % config.log_every == 0 or step == 1):
                row = meter.row(step, {**values, **validated})
                if receipts:  # of the epochs that ended since the last line
                    row["receipts"] = [facts for _, facts in receipts]
                    for line in [line for line, facts in receipts[:-1] if not facts["sound"]] + [receipts[-1][0]]:
                        console.say(f"{task.name}: {line}")
                    receipts = []
                logs.write(row)
                logs.write_counts(step, task.counts() if validated else {})
                console.say(step_line(task.name, row))
            if step % config.checkpoint_every == 0 or step == config.steps or stopping or better:
                state: dict[str, Any] = {"plan": plan.fingerprint, "task": task.state()}
                state |= {"layouts": {name: item.layout for name, item in engines.items()}}
                if validated:
                    state["score"] = score
                keep_best = config.keep_best
                checkpoint.save(folder, task.name, step, engines, state, config.keep_checkpoints, best=keep_best)
                saved = step
            if stopping and step < config.steps:
                raise KeyboardInterrupt
    if logs is not None:
        logs.close()
    for item in engines.values():
        if item.average is not None:
            item.average.swap()
        item.make_whole()


def _score(task: Task, validated: dict[str, float], step: int) -> float | None:
    """The score of a validation; None if it is no number, which is said."""
    fault = broken(validated)
    if fault is not None and rank() == 0:
        console.note(f"WARN {task.name} step {step}: {fault} is {validated[fault]}; it counts for nothing")
    score = task.score(validated)
    return score if score is not None and math.isfinite(score) else None


def check_batch(name: str, config: TrainConfig) -> None:
    """Refuses a batch that ranks and parts cannot share.

    Raises:
        UsageError: it does not divide.
    """
    if config.batch_size % (config.accumulate * world_size()):
        raise UsageError(
            f"a batch of {config.batch_size} does not divide by {world_size()} ranks x {config.accumulate} parts",
            at=f"{name}.train.batch_size",
            hint="change batch_size, accumulate or the number of training processes",
        )


@contextmanager
def averaged(engines: Mapping[str, Engine]) -> Iterator[None]:
    """Puts the averaged weights in place of the present ones, where an average is kept, for the time of a block."""
    averages = [item.average for item in engines.values() if item.average is not None]
    for item in averages:
        item.swap()
    try:
        yield
    finally:
        for item in averages:
            item.swap()


def _restore(task: Task, engines: Mapping[str, Engine], path: Path, state: dict[str, Any]) -> int:
    """Loads a checkpoint, shares it out anew where it was laid out otherwise, and returns its step."""
    step = int(state["step"])
    layouts: dict[str, Layout] = state.get("layouts", {})
    for name, item in engines.items():
        item.load(path / name, layouts.get(name))
    task.load_state(state.get("task", {}))
    if rank() == 0:
        console.say(f"{task.name}: resumed at step {step} from {path}")
        for there, here in {(_shown(layouts[name]), _shown(engines[name].layout)) for name in layouts}:
            if there != here:
                console.say(f"{task.name}: the checkpoint was of {there}; it was shared out anew for {here}")
    return step


def _shown(layout: Layout) -> str:
    if layout["engine"] == "plain":
        return "the plain engine"
    return f"ZeRO stage {layout['zero_stage']} on {console.count(layout['world'], 'ranks')}"


def _describe(engine: EngineName, config: TrainConfig) -> str:
    words = [f"engine {engine}"]
    if engine == "deepspeed" and world_size() > 1:
        words.append(f"ZeRO stage {config.zero_stage} on {world_size()} processes")
    if config.precision != "fp32":
        words.append(config.precision)
    if config.accumulate > 1:
        words.append(f"{config.accumulate} parts a batch")
    return ", ".join(words)


def gpu_hint(name: str, config: TrainConfig, *, fresh: bool) -> str | None:
    """What would probably make the training of a prior faster on this machine's GPU; None: nothing that is known.

    Args:
        name: of the task.
        config: the present settings.
        fresh: whether the run begins now: a resumed one keeps its precision.
    """
    if name != "prior" or not torch.cuda.is_available():
        return None
    faster = [f"{name}.train.precision=bf16"] if fresh and config.precision == "fp32" else []
    faster += [] if config.compile else [f"{name}.train.compile=true"]
    if not faster:
        return None
    return f"usually much faster on a GPU: {' '.join(faster)}; `vtok train {name} RECIPE --calibrate` measures it"


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _choose_threads(task: Task, step: int, config: TrainConfig) -> int:
    """Times a part of a batch where one process has the CPU to itself; several share its cores, a GPU does not care.
    Weights in parts cannot be copied for the timing."""
    if not _alone_on_cpu(config):
        return max(1, cpu_count() // ranks_here())
    part = micro_batches(next(task.batches(step)), config.accumulate)[0]
    return choose_threads(lambda: task.timing_step(part))


def _alone_on_cpu(config: TrainConfig) -> bool:
    """Whether a timing says something: one process, on the CPU, with weights that can be copied."""
    sharded = config.engine == "deepspeed" and config.zero_stage == 3
    return world_size() == 1 and not sharded and not torch.cuda.is_available()


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
