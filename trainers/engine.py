"""Two engines behind one face: DeepSpeed, and plain torch in one process. They compute the same steps.

An engine owns one module and its optimiser: `backward(loss)` once for every part of a batch (`train.accumulate`), then
`step()`. The tokenizer's trainer has two engines (generator, discriminators), the prior's has one. DeepSpeed compiles
an op when it first starts and needs a C++ compiler for it; without one the run falls back to the plain engine and says
so.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import torch
from torch import nn

from schemas.config.train import OptimConfig, TrainConfig
from schemas.errors import VtokError
from trainers.blocks import checkpoint_blocks, compile_blocks
from trainers.only_data import only_data
from trainers.op_lock import wait_for_compilation
from trainers.optim import clip_gradients, make_optimizer, set_lr
from trainers.precision import LossScale, check_precision, use_precision
from trainers.ranks import average, barrier, rank, world_size
from trainers.weight_average import WeightAverage
from vtok import console
from vtok.hardware import find_compiler

__all__ = ["Engine", "EngineName", "Layout", "PlainEngine", "average", "barrier", "make_engine", "rank", "start"]
__all__ += ["world_size"]

EngineName = Literal["deepspeed", "plain"]

DEADLINE = timedelta(minutes=20)
"""How long a rank waits for the others in one exchange before it gives up."""


class Layout(TypedDict):
    """How a checkpoint's tensors are shared out over files."""

    engine: EngineName
    zero_stage: int
    world: int


class Engine(Protocol):
    """One module and its optimiser."""

    module: nn.Module
    scale: LossScale
    average: WeightAverage | None
    """The average of the weights, where one is kept."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of `loss`, the mean over one part of a rank's batch (averaged over parts and ranks)."""

    def step(self, lr: float) -> float:
        """Clips, updates with this learning rate, clears the gradients; returns the gradient norm before clipping.

        A norm that is not finite is returned as such, and the weights stay as they were.
        """

    def save(self, folder: Path) -> None:
        """Writes module, buffers and optimiser below `folder`. Called on every rank."""

    def load(self, folder: Path, layout: Layout | None = None) -> None:
        """Restores what `save` wrote, bit by bit, also where it was laid out otherwise. Called on every rank."""

    @property
    def layout(self) -> Layout:
        """How `save` lays files out."""

    def make_whole(self) -> None:
        """Puts the whole weights into the module of every rank, for the export: no step comes after it."""


class PlainEngine:
    """torch in one process."""

    layout: Layout = {"engine": "plain", "zero_stage": 0, "world": 1}  # noqa: RUF012

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: OptimConfig,
        *,
        accumulate: int = 1,
        scale: LossScale | None = None,
    ) -> None:
        self.module, self.optimizer = module, optimizer
        self.average: WeightAverage | None = None
        self.scale = scale or LossScale("fp32")
        self._clip, self._parts, self._backwards = config.clip_grad_norm, accumulate, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        self._backwards += 1
        (loss * self.scale.value / self._parts).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        check_parts(self._backwards, self._parts)
        self._backwards = 0
        groups = [group["params"] for group in self.optimizer.param_groups]
        norm = clip_gradients(groups, self._clip, scale=self.scale.value)
        set_lr(self.optimizer, lr)
        overflow = not math.isfinite(norm)
        if not overflow:
            self.optimizer.step()
        self.scale.update(overflow)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, **_extras(self.scale, self.average)}, folder / "plain.pt")

    def load(self, folder: Path, layout: Layout | None = None) -> None:
        with only_data(folder):
            if layout is not None and layout["engine"] != "plain":
                from trainers import reshard

                whole = reshard.read(folder, layout, self.module, reshard.order_of(self.module, self.optimizer))
                reshard.fill_whole(self.module, self.optimizer, whole)
                _load_extras(whole.extras, self.scale, self.average)
                return
            state = torch.load(folder / "plain.pt", weights_only=True, map_location="cpu")
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        _load_extras(state, self.scale, self.average)

    def make_whole(self) -> None:
        """Nothing to do: one process holds everything."""


def check_parts(backwards: int, parts: int) -> None:
    """Refuses a step that not every part of the batch went into.

    Raises:
        VtokError: `backward` was not called once for each part.
    """
    if backwards != parts:
        raise VtokError(
            f"train.accumulate is {parts}, and a step of this training goes back {backwards} times",
            hint="set train.accumulate=1",
        )


def _extras(scale: LossScale, weights: WeightAverage | None) -> dict[str, Any]:
    found: dict[str, Any] = {"scale": scale.state_dict()} if scale.dynamic else {}
    if weights is not None:
        found["average"] = weights.state_dict()
    return found


def _load_extras(state: dict[str, Any], scale: LossScale, weights: WeightAverage | None) -> None:
    if scale.dynamic and "scale" in state:
        scale.load_state_dict(state["scale"])
    if weights is not None and "average" in state:
        weights.load_state_dict(state["average"])


def start(wanted: EngineName) -> EngineName:
    """Gets the engine ready and returns the one that will run: `plain` where DeepSpeed cannot start.

    Raises:
        VtokError: several processes were launched and DeepSpeed cannot start: plain torch trains in one process only.
    """
    processes = world_size()
    if wanted == "deepspeed":
        reason = _start_deepspeed()
        if reason is None:
            return "deepspeed"
        if processes == 1:
            console.note(f"engine: plain torch instead of DeepSpeed ({reason})")
    else:
        reason = "train.engine is plain"
    if processes > 1:
        raise VtokError(
            f"{processes} processes need the DeepSpeed engine, which does not start: {reason}",
            hint="install a C++ compiler (g++), or train in one process",
        )
    return "plain"


def _start_deepspeed() -> str | None:
    """Initialises torch.distributed through DeepSpeed; returns why it cannot, or None."""
    if torch.distributed.is_initialized() and "deepspeed" in sys.modules:
        return None
    if find_compiler() is None:
        return "its op needs a C++ compiler and there is none"
    cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # DeepSpeed calls collectives by names that torch renames: one line a step that nobody can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    try:
        import deepspeed

        wait_for_compilation()
        deepspeed.utils.logger.setLevel("ERROR")
        with console.quiet_stdout():
            deepspeed.init_distributed("nccl" if cuda else "gloo", auto_mpi_discovery=False, timeout=DEADLINE)
    except (ImportError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_engine(
    name: EngineName,
    module: nn.Module,
    groups: list[dict[str, Any]],
    optim: OptimConfig,
    train: TrainConfig,
    *,
    average: bool = True,
) -> Engine:
    """Wraps a module and a new optimiser over `groups` in the engine of that name (`start` must have been called).

    Args:
        name: which engine.
        module: the model, on its device.
        groups: the optimiser's parameter groups.
        optim: the optimiser.
        train: precision, activation checkpointing, compilation, accumulation, ZeRO stage.
        average: whether this module's weights are averaged where `train.ema_decay` asks for it.

    Raises:
        UsageError: this machine does not compute in that precision.
    """
    check_precision(train.precision)
    if train.checkpoint_activations:
        checkpoint_blocks(module)
    if train.compile:
        compile_blocks(module)
    sharded = name == "deepspeed" and train.zero_stage == 3
    use_precision(module, train.precision, cache=not sharded)
    optimizer, scale = make_optimizer(groups, optim), LossScale(train.precision)
    engine: Engine
    if name == "plain":
        engine = PlainEngine(module, optimizer, optim, accumulate=train.accumulate, scale=scale)
    else:
        from trainers.zero import DeepSpeedEngine

        micro = train.batch_size // world_size() // train.accumulate
        engine = DeepSpeedEngine(
            module,
            optimizer,
            optim,
            micro_batch=micro,
            zero_stage=train.zero_stage,
            accumulate=train.accumulate,
            scale=scale,
        )
    if average and train.ema_decay is not None:
        engine.average = WeightAverage(module, train.ema_decay)
    return engine
