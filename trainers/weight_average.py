"""An exponential moving average of the weights, which is validated and exported in their place.

The decay warms up as (1 + step) / (10 + step), so that a short run is not dominated by its random start. Buffers (norm
statistics, a codebook's sums) are not averaged: they are averages already. Under ZeRO stage 3 each rank averages the
part of the weights that it holds; on disk the average is whole, so that it fits any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainers.ranks import rank, world_size


class WeightAverage:
    """The average of a module's trainable weights.

    Args:
        module: already wrapped by its engine.
        decay: of the average, for late steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._average = {name: held(p).detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights as they are after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._weights.items():
            self._average[name].lerp_(held(parameter), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and the average, in place; a second call undoes it."""
        for name, parameter in self._weights.items():
            weights = held(parameter)
            kept = weights.clone()
            weights.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The whole average. Called on every rank."""
        return {name: whole(p, self._average[name]) for name, p in self._weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave, on any number of ranks."""
        for name, parameter in self._weights.items():
            self._average[name].copy_(share(parameter, state[name]))


def held(parameter: Any) -> Tensor:
    """The storage of what this rank holds of a parameter: all of it, or its part under ZeRO stage 3."""
    found: Tensor = parameter.ds_tensor if is_sharded(parameter) else parameter.data
    return found


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether ZeRO stage 3 has shared out this parameter."""
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Any) -> torch.Size:
    """The shape of a parameter, also where this rank holds only a part of it."""
    return torch.Size(parameter.ds_shape) if is_sharded(parameter) else parameter.shape


def whole(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """The whole of a tensor that is shared out as `parameter` is, from every rank's part."""
    if not is_sharded(parameter):
        return part
    parts = [part]
    if world_size() > 1:
        parts = [torch.empty_like(part) for _ in range(world_size())]
        torch.distributed.all_gather(parts, part.contiguous())
    shape = whole_shape(parameter)
    return torch.cat(parts)[: shape.numel()].view(shape)


def share(parameter: nn.Parameter, full: Tensor) -> Tensor:
    """This rank's part of a whole tensor, shared out as `parameter` is."""
    if not is_sharded(parameter):
        return full
    size = held(parameter).numel()
    padded = torch.zeros(size * world_size(), dtype=full.dtype)
    padded[: full.numel()] = full.reshape(-1).cpu()
    return padded[rank() * size : (rank() + 1) * size]
