"""What the sections of `gpu_prior.py` are made of: models and inputs on the device, and the trainer's step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from schemas.config.prior import GptConfig, MebtConfig
from schemas.config.train import OptimConfig, TrainConfig
from tests.bench.gpu import Bench
from trainers.engine import make_engine
from vtok.priors.masking import Division, divide
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior

Shape = tuple[int, int, int]


def draws(bench: Bench) -> torch.Generator:
    return torch.Generator(bench.device).manual_seed(0)


def codes_of(bench: Bench, batch: int, n_codes: int, grid: Shape) -> Tensor:
    return torch.randint(n_codes, (batch, *grid), generator=draws(bench), device=bench.device)


def gpt_of(bench: Bench, config: GptConfig, n_codes: int, grid: Shape) -> GptPrior:
    with bench.device:
        return GptPrior(config, n_codes, grid, generator=draws(bench))


def mebt_of(bench: Bench, config: MebtConfig, n_codes: int, grid: Shape) -> MebtPrior:
    with bench.device:
        return MebtPrior(config, n_codes, grid, draws(bench))


def half(bench: Bench, batch: int, grid: Shape, t: float = 0.5) -> Division:
    """Half of the codes of each clip seen (or the share `t`), the others to be predicted."""
    chances = torch.rand(batch, math.prod(grid), generator=draws(bench), device=bench.device)
    return divide(
        chances.argsort(1), grid, schedule="linear", t=t, first_frame=0, frames=grid[0], budget=None, parity=False
    )


def in_bfloat16(bench: Bench, loss: Callable[[], Tensor]) -> Tensor:
    with torch.autocast(bench.device.type, torch.bfloat16):
        return loss()


def our_step(bench: Bench, prior: Any, *batches: tuple[Any, ...], compile_it: bool | None = None) -> Callable[[], Any]:
    """The trainer's step on one GPU, on each of the batches in turn."""
    train = TrainConfig(precision="bf16", compile=bench.compile if compile_it is None else compile_it)
    optim = OptimConfig(lr=1e-4, clip_grad_norm=None)
    engine = make_engine("plain", prior, prior.optim_groups(optim.weight_decay), optim, train)

    def step() -> float:
        for arguments in batches:
            output = engine(*arguments)
            engine.backward(output.loss)
            loss = float(output.loss.detach())
            engine.step(1e-4)
        return loss

    return step


def loss_inputs(bench: Bench, tokens: int, width: int, n_codes: int) -> tuple[Tensor, Tensor, Tensor]:
    source = draws(bench)
    features = torch.randn(tokens, width, generator=source, device=bench.device).requires_grad_()
    weight = (0.02 * torch.randn(n_codes, width, generator=source, device=bench.device)).requires_grad_()
    return features, weight, torch.randint(n_codes, (tokens,), generator=source, device=bench.device)


def heads_of(bench: Bench, batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    source, shape = draws(bench), (batch, heads, tokens, width)
    return [torch.randn(shape, generator=source, device=bench.device).to(dtype).requires_grad_() for _ in range(3)]
