"""Things done to each block of a model: recomputing its activations, and compiling it.

A block is a member of a `nn.ModuleList` that lies in no other block (the layers of a transformer, the stages of a
convolutional encoder), or a residual block of the VQ-VAE. Both act in place and leave parameter names alone. They come
before the engine wraps the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
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
        block.forward = _RecomputedWithNorms(block) if _norms(block) else MethodType(_recomputed, block)
        count += 1
    return count


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A method in plain sight of torch.compile, which traces the recomputation with the block. It looks neither into
    `functools.partial` nor behind a `context_fn`: it would compile nothing, and say nothing. Being a method, it belongs
    to the copy where the block is copied."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return type(block).forward(block, *args, **kwargs)

    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class _RecomputedWithNorms:
    """A block with batch norms, which needs a `context_fn`: what is compiled is the block, recomputed from outside."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.inner = block, type(block).forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.inner, self.block, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What the first and what the second computation of the block run in."""
        return nullcontext(), _statistics_stay(self.block)


def _norms(block: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    norms = _norms(block)
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


def compile_blocks(module: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """torch.compile on each block; returns how many there are. One block's code serves all of the same shape."""
    count = 0
    for block in blocks_of(module):
        if isinstance(block.forward, _RecomputedWithNorms):
            # Never for several shapes at once: both computations of a block must be of the same graph.
            block.forward.inner = torch.compile(block.forward.inner, backend=backend, dynamic=False)
        else:
            block.compile(backend=backend)
        count += 1
    return count
