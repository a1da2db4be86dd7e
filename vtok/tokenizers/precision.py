"""Which arithmetic a tokenizer computes in: codes are data, so the default is float32 and nothing less.

torch rounds the inputs of a GPU's float32 convolutions to 10 bits of mantissa (TF32) unless it is told not to
(https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices). That changes codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 products and convolutions without TF32 or autocast, and a kernel that depends on shapes alone.

    On a GPU cuDNN must neither time its kernels and keep the fastest (which is another one every day) nor take one
    whose sums run in no fixed order.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
