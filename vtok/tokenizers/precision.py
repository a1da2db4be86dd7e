"""Which arithmetic a tokenizer computes in: codes are data, so the default is float32 and nothing less.

torch rounds the inputs of a GPU's float32 convolutions to 10 bits of mantissa (TF32) unless it is told not to
(https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices). That changes codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SHORTCUTS = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
"""What `torch.backends.cuda.matmul` may do to a product."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 products and convolutions without TF32 or autocast, and a kernel that depends on shapes alone.

    Products of a smaller type are summed in float32: on a GPU torch lets their partial sums (split-K) be rounded to the
    small type, which no bound on the error of one rounding a factor and one of the result would allow for.
    On a GPU cuDNN must neither time its kernels and keep the fastest (which is another one every day) nor take one
    whose sums run in no fixed order.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        allowed = [name for name in _SHORTCUTS if getattr(torch.backends.cuda.matmul, name)]
        for name in allowed:
            setattr(torch.backends.cuda.matmul, name, False)
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        finally:
            for name in allowed:
                setattr(torch.backends.cuda.matmul, name, True)
