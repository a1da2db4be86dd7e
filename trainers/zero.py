"""The DeepSpeed engine: ZeRO stages 0 to 3 around a client optimiser (https://arxiv.org/abs/1910.02054).

Differences from DeepSpeed's defaults, each measured: torch's own Adam (DeepSpeed's compiles for a minute), no
`overlap_comm` below stage 2, the learning rate set from outside (it is a pure function of the step), mixed precision
by autocast (trainers/precision.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schemas.config.train import OptimConfig
from schemas.errors import VtokError
from trainers import reshard
from trainers.engine import Layout, check_parts
from trainers.only_data import only_data
from trainers.optim import clip_gradients, set_lr
from trainers.precision import LossScale
from trainers.ranks import rank, world_size
from trainers.weight_average import WeightAverage


class DeepSpeedEngine:
    """deepspeed.initialize around the module."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: OptimConfig,
        *,
        micro_batch: int,
        zero_stage: int,
        accumulate: int = 1,
        scale: LossScale | None = None,
    ) -> None:
        import deepspeed

        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulate,
            "gradient_clipping": (config.clip_grad_norm or 0.0) if zero_stage else 0.0,
            "zero_optimization": {"stage": zero_stage, **_STAGES[zero_stage]},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        self.module = module
        self.average: WeightAverage | None = None
        self.scale = scale or LossScale("fp32")
        self.layout: Layout = {"engine": "deepspeed", "zero_stage": zero_stage, "world": world_size()}
        self._client, self._order = optimizer, reshard.order_of(module, optimizer)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings, dist_init_required=False
        )
        self._clip, self._parts, self._backwards = config.clip_grad_norm, accumulate, 0
        self._stage = zero_stage
        if self.scale.dynamic and zero_stage:
            self._optimizer.check_grad_overflow = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        if self._backwards:
            self._engine.step()  # not the last part yet: DeepSpeed only counts
        self._backwards += 1
        if self.scale.dynamic and self._stage:
            self._optimizer.override_loss_scale(self.scale.value)  # DeepSpeed multiplies, and divides in its step
        elif self.scale.dynamic:
            loss = loss * self.scale.value
        self._engine.backward(loss)

    def step(self, lr: float) -> float:
        check_parts(self._backwards, self._parts)
        self._backwards = 0
        set_lr(self._optimizer, lr)
        if self._stage:  # each rank holds a part of the gradients: only DeepSpeed knows the whole norm
            self._engine.step()
            overflow = bool(self._optimizer.overflow)  # then it has left the weights alone
            self.scale.update(overflow)
            return math.inf if overflow else float(self._engine.get_global_grad_norm() or 0.0)
        groups = [group["params"] for group in self._optimizer.param_groups]
        norm = clip_gradients(groups, self._clip, scale=self.scale.value)
        overflow = not math.isfinite(norm)
        if overflow:  # parameters without a gradient are left alone
            for parameter in (p for group in groups for p in group):
                parameter.grad = None
        self.scale.update(overflow)
        self._engine.step()
        return norm

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)
        extras: dict[str, Any] = {"scale": self.scale.state_dict()} if self.scale.dynamic else {}
        if self.average is not None:
            extras["average"] = self.average.state_dict()
        if rank() == 0:
            for script in folder.glob("zero_to_*.py"):  # DeepSpeed's: a checkpoint holds no code
                script.unlink()
            torch.save(dict(self.module.named_buffers()), folder / reshard.BUFFERS)
            if extras:
                torch.save(extras, folder / reshard.EXTRAS)

    def load(self, folder: Path, layout: Layout | None = None) -> None:
        with only_data(folder):
            extras = self._load(folder, layout)
        if self.scale.dynamic and "scale" in extras:
            self.scale.load_state_dict(extras["scale"])
        if self.average is not None and "average" in extras:
            self.average.load_state_dict(extras["average"])

    def _load(self, folder: Path, layout: Layout | None) -> dict[str, Any]:
        """Loads what DeepSpeed keeps, and returns what else there is."""
        if layout is None or reshard.same(layout, self.layout):
            self._load_as_saved(folder)
            return reshard.read_extras(folder)
        state = reshard.read(folder, layout, self.module, self._order)
        if self._stage == 0:
            reshard.fill_whole(self.module, self._client, state)
        else:
            reshard.fill_sharded(self.module, self._optimizer, self._stage, state)
        return state.extras

    def _load_as_saved(self, folder: Path) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise VtokError("DeepSpeed cannot load the checkpoint", at=str(folder), hint="resume from an older one")
        reshard.fill_buffers(self.module, torch.load(folder / reshard.BUFFERS, weights_only=True, map_location="cpu"))

    def make_whole(self) -> None:
        if self._stage < 3:
            return
        import deepspeed

        # Never left again: from now on the module's parameters are whole on every rank.
        deepspeed.zero.GatheredParameters(list(self.module.parameters())).__enter__()


_STAGES: dict[int, dict[str, Any]] = {
    0: {},
    1: {},
    2: {"overlap_comm": True},
    3: {"stage3_param_persistence_threshold": 0},
}
"""Settings of each ZeRO stage. Stage 3 shares out small weights too: what is exported is gathered anyway."""
