"""The smallest training that goes through the whole loop, alone or as one of several ranks.

As a script (`python -m tests.trainers.tiny_task RUNS.json`) it does a list of runs, one after the other, in one
process; ranks find each other through the launcher's environment. A run that names a recipe trains its tokenizer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from schemas.card import Plan
from schemas.config import load_recipe
from schemas.config.train import OptimConfig, TrainConfig
from schemas.errors import VtokError
from schemas.version import SCHEMA_VERSIONS
from tests.pipelines.making import REPOSITORY
from trainers import engine as engine_module
from trainers import loop
from trainers.engine import Engine, EngineName, make_engine, rank, world_size
from trainers.optim import learning_rate
from trainers.task import Task, micro_batches
from trainers.tokenizer import train_tokenizer
from vtok.cli.launching import hold_port
from vtok.files import write_json
from vtok.seeds import generator

PLAN = Plan(kind="prior", schema_version=SCHEMA_VERSIONS["prior"], config={}, inputs={}, units=[])
OPTIM = OptimConfig(lr=1e-2, warmup_steps=5, schedule="cosine", weight_decay=0.1)
WIDTH = 12


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 19), nn.Linear(19, WIDTH, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.tanh(self.up(self.norm(x)))))


class Tiny(nn.Module):
    """Odd sizes, so that no partition of ZeRO comes out even, and a buffer that changes with every step."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
        self.head = nn.Linear(WIDTH, 11)
        self.register_buffer("seen", torch.zeros(()))
        self.poisoned = False

    def forward(self, codes: Tensor, targets: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.seen += 1
        x = self.embed(codes)
        if self.poisoned:
            x = x + torch.sqrt(0 * x)  # is 0, and its gradient is 0 / 0
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x).flatten(0, 1).float(), targets.flatten())


class TinyTask(Task):
    """Learns to count in steps of 3 modulo 11, with some wrong answers.

    Args:
        config: of the training.
        dropout: of the model.
        events: what happens at a step of one rank: {"step": 7, "rank": 1, "do": "sigterm" | "nan" | "nan-gradients" |
            "die" | "oom"}.
    """

    name, unit, seed = "prior", "tok", 3

    def __init__(
        self, config: TrainConfig, *, dropout: float = 0.0, events: list[dict[str, Any]] | None = None
    ) -> None:
        self.config, self.dropout, self.events = config, dropout, events
        self.units_per_batch = config.batch_size * 5
        self.loaded: dict[str, Any] | None = None
        self.steps_done = 0

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        torch.manual_seed(1)
        self.model = Tiny(self.dropout)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": OPTIM.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.engine = make_engine(engine, self.model, groups, OPTIM, self.config)
        return {"prior": self.engine}

    def batches(self, start_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = start_step
        while True:
            draws = generator(self.seed, "data", step)
            codes = torch.randint(0, 11, (self.config.batch_size, 5), generator=draws)
            noise = torch.randint(0, 11, codes.shape, generator=draws)
            targets = torch.where(torch.rand(codes.shape, generator=draws) < 0.1, noise, (codes + 3) % 11)
            share = self.config.batch_size // world_size()
            mine = slice(rank() * share, (rank() + 1) * share)
            yield codes[mine], targets[mine]
            step += 1

    def timing_step(self, batch: tuple[Tensor, Tensor]) -> None:
        raise AssertionError("threads are given")

    def train_step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, float]:
        self.model.poisoned = False
        for event in self.events:
            if event["step"] == step and event["rank"] == rank():
                _happen(event["do"], self.model)
        loss = 0.0
        for part in micro_batches(batch, self.config.accumulate):
            output = self.engine(*part)
            self.engine.backward(output)
            loss += float(output.detach()) / self.config.accumulate
        lr = learning_rate(OPTIM, step, self.config.steps, batch_size=self.config.batch_size)
        norm = self.engine.step(lr)
        self.steps_done = step + 1
        return {"loss": loss, "lr": lr, "gnorm": norm}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        self.model.eval()
        codes = torch.arange(11).view(1, 11)
        value = float(self.model(codes, (codes + 3) % 11))
        self.model.train()
        return {"val": value}

    def flops_per_unit(self, step: int) -> float | None:
        return 6.0 * sum(p.numel() for p in self.model.parameters())

    def state(self) -> dict[str, Any]:
        return {"position": self.steps_done}

    def load_state(self, state: dict[str, Any]) -> None:
        self.loaded = state


def _happen(what: str, model: Tiny) -> None:
    match what:
        case "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        case "nan":
            with torch.no_grad():
                model.get_parameter("head.bias").fill_(float("nan"))
        case "nan-gradients":
            model.poisoned = True


def train(folder: Path, *, resume: str = "auto", **options: Any) -> TinyTask:
    """One run in this process, on the plain engine unless `engine` says otherwise; the weights are saved beside it."""
    dropout, events = options.pop("dropout", 0.0), options.pop("events", [])
    if options.get("precision") == "fp16":  # slow on the CPU, and therefore refused, but the same arithmetic
        engine_module.check_precision = lambda precision: None
    settings = {"engine": "plain", "steps": 12, "batch_size": 8, "threads": 1, "log_every": 1, "validate_every": 6}
    config = TrainConfig(**{**settings, "checkpoint_every": 4, **options})
    folder.mkdir(parents=True, exist_ok=True)
    task = TinyTask(config, dropout=dropout, events=events)
    loop.run(task, config, PLAN, folder, resume=resume)
    if rank() == 0:
        torch.save(task.model.state_dict(), folder / "weights.pt")
    return task


def launch(
    runs: list[dict[str, Any]],
    path: Path,
    *,
    ranks: int = 2,
    timeout: float = 1200,
    script: str = "tests.trainers.tiny_task",
) -> list[subprocess.CompletedProcess[str]]:
    """Runs the script on some ranks with one process each; returns them when all have ended."""
    write_json(path, {"runs": runs})
    held = hold_port()
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held.getsockname()[1])}
    command = [sys.executable, "-m", script, str(path)]
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
        held.close()
    return [
        subprocess.CompletedProcess(command, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def main() -> int:
    code = 0
    for options in json.loads(Path(sys.argv[1]).read_text())["runs"]:
        try:
            if "recipe" in options:
                train_tokenizer(load_recipe(options["recipe"]))
            else:
                train(Path(options.pop("folder")), **options)
        except VtokError as error:
            print(error, file=sys.stderr)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
