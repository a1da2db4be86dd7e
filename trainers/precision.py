"""bf16 and fp16: the forward pass runs under autocast, weights and optimiser stay in fp32.

This is not DeepSpeed's own bf16 mode, which casts the whole module: a codebook's running statistics and batch norms
would lose their digits, and stage 0 takes other steps than stages 1 to 3. Under autocast all engines and stages share
one semantics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from schemas.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Precision) -> None:
    """Refuses what this machine cannot compute.

    Raises:
        UsageError: fp16 without a GPU, or bf16 on a GPU that has none.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise UsageError(
            "precision fp16 needs a CUDA GPU", at="train.precision", hint="set precision=bf16 or precision=fp32"
        )
    # emulated, as on a V100, it is slower than fp32 and has fewer digits
    emulated = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and emulated:
        raise UsageError(
            "this GPU does not compute in bf16", at="train.precision", hint="set precision=fp16 or precision=fp32"
        )


def use_precision(module: nn.Module, precision: Precision, *, cache: bool = True) -> None:
    """Makes `module`'s forward pass run under autocast, in place; its weights stay as they are.

    Args:
        module: the whole model.
        precision: fp32 changes nothing.
        cache: keep the cast weights through a forward pass; off where the whole weights are there for a moment only.
    """
    if precision == "fp32":
        return
    device = next(module.parameters()).device.type
    module.forward = functools.partial(_cast, module.forward, device, _DTYPES[precision], cache)


def _cast(forward: Callable[..., Any], device: str, dtype: torch.dtype, cache: bool, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(device, dtype, cache_enabled=cache):
        return forward(*args, **kwargs)


class LossScale:
    """fp16's dynamic loss scale: halved when a gradient overflows (that step is skipped), doubled after 2,000 steps
    without. Other precisions have the scale 1 for good.

    Attributes:
        dynamic: whether it changes.
        value: the scale.
        exhausted: whether the last step overflowed though the scale was at its least already.
    """

    growth_interval = 2000

    def __init__(self, precision: Precision, initial: float = 2.0**16) -> None:
        self.dynamic = precision == "fp16"
        self.value = initial if self.dynamic else 1.0
        self.exhausted = False
        self._good = 0

    def update(self, overflow: bool) -> None:
        """Takes note of how a step went."""
        if not self.dynamic:
            return
        self.exhausted = overflow and self.value == 1.0
        if overflow:
            self.value, self._good = max(self.value / 2, 1.0), 0
            return
        self._good += 1
        if self._good == self.growth_interval:
            self.value, self._good = self.value * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "good": float(self._good)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value, self._good = state["value"], int(state["good"])
