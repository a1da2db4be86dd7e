"""Things done to each block of a model: recomputing its activations, and compiling it.

A block is a member of a `nn.ModuleList` that lies in no other block (the layers of a transformer, the stages of a
convolutional encoder), or a residual block of the VQ-VAE. Both act in place and leave parameter names alone. They come
before the engine wraps the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from vtok.tokenizers.axial import AttentionResidualBlock


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks of a model, in order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif isinstance(child, AttentionResidualBlock):
            yield child
        else:
            yield from blocks_of(child)


def checkpoint_blocks(module: nn.Module) -> int:
    """Keeps only the input of each block for the backward pass; returns how many blocks there are.

    Batch norms leave their running statistics alone when a block is computed again: they have seen that batch.
    """
    count = 0
    for block in blocks_of(module):
        contexts = functools.partial(_contexts, block)
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        count += 1
    return count


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What the first and what the second computation of a block run in."""
    return nullcontext(), _statistics_stay(block)


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # as before, the buffers take part: both computations must keep the same tensors
    try:
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


def compile_blocks(module: nn.Module) -> int:
    """torch.compile on each block; returns how many there are. One block's code serves all of the same shape."""
    count = 0
    for block in blocks_of(module):
        block.compile()
        count += 1
    return count
