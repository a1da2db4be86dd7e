"""Two engines behind one face: DeepSpeed, and plain torch in one process. They compute the same steps.

An engine owns one module and its optimiser: `backward(loss)`, `step()`, `save`, `load`. The tokenizer's trainer has two
engines (generator, discriminators), the prior's has one. DeepSpeed compiles an op when it first starts and needs a C++
compiler for it; without one the run falls back to the plain engine and says so.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from schemas.config.train import OptimConfig, TrainConfig
from schemas.errors import VtokError
from trainers.optim import clip_gradients
from vtok import console
from vtok.hardware import find_compiler

EngineName = Literal["deepspeed", "plain"]


class Engine(Protocol):
    """One module and its optimiser."""

    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of `loss` to the module's parameters (averaged over ranks)."""

    def step(self, lr: float) -> float:
        """Clips, updates with this learning rate, clears the gradients; returns the gradient norm before clipping."""

    def save(self, folder: Path) -> None:
        """Writes module, buffers and optimiser below `folder`. Called on every rank."""

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit by bit."""


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over parameter groups that carry their own weight decay."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimizer](groups, lr=config.lr, betas=config.betas, weight_decay=0.0)


class PlainEngine:
    """torch in one process."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: OptimConfig) -> None:
        self.module, self.optimizer = module, optimizer
        self._clip = config.clip_grad_norm

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        norm = clip_gradients([group["params"] for group in self.optimizer.param_groups], self._clip)
        _set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / "plain.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "plain.pt", weights_only=True, map_location="cpu")
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """deepspeed.initialize around the module, fp32, ZeRO stage 0 or 1 with a client optimiser."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: OptimConfig,
        *,
        micro_batch: int,
        zero_stage: int,
    ) -> None:
        import deepspeed

        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": (config.clip_grad_norm or 0.0) if zero_stage else 0.0,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings, dist_init_required=False
        )
        self.module = module
        self._clip = config.clip_grad_norm
        self._sharded = zero_stage > 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss)

    def step(self, lr: float) -> float:
        _set_lr(self._optimizer, lr)
        if self._sharded:  # each rank holds a part of the gradients: only DeepSpeed knows the whole norm
            self._engine.step()
            return float(self._engine.get_global_grad_norm() or 0.0)
        norm = clip_gradients([group["params"] for group in self._optimizer.param_groups], self._clip)
        self._engine.step()
        return norm

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)
        if rank() == 0:
            torch.save(dict(self.module.named_buffers()), folder / "buffers.pt")

    def load(self, folder: Path) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise VtokError("DeepSpeed cannot load the checkpoint", at=str(folder), hint="resume from an older one")
        buffers = torch.load(folder / "buffers.pt", weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(buffers[name])


def _set_lr(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def rank() -> int:
    """This process's rank, from the launcher's environment until torch.distributed is up; 0 in a run of one process."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of training processes, from the launcher's environment until torch.distributed is up."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def average(values: dict[str, float]) -> dict[str, float]:
    """The mean of every value over all ranks, which must hold the same keys."""
    if world_size() == 1:
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(values, (total / world_size()).tolist(), strict=True))


def barrier() -> None:
    """Waits for all ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


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
    try:
        import deepspeed

        deepspeed.utils.logger.setLevel("ERROR")
        with console.quiet_stdout():
            deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False)
    except (ImportError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_engine(
    name: EngineName, module: nn.Module, groups: list[dict[str, Any]], optim: OptimConfig, train: TrainConfig
) -> Engine:
    """Wraps a module and a new optimiser over `groups` in the engine of that name (`start` must have been called)."""
    optimizer = make_optimizer(groups, optim)
    if name == "plain":
        return PlainEngine(module, optimizer, optim)
    micro = train.batch_size // world_size()
    return DeepSpeedEngine(module, optimizer, optim, micro_batch=micro, zero_stage=train.zero_stage)
