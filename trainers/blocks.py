"""Things done to each block of a model: recomputing its activations, and compiling it.

A block is a member of a `nn.ModuleList` that lies in no other block: the layers of a transformer, the stages of a
convolutional encoder. Both act in place and leave parameter names alone. They come before the engine wraps the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks of a model, in order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks_of(child)


def checkpoint_blocks(module: nn.Module) -> int:
    """Keeps only the input of each block for the backward pass; returns how many blocks there are."""
    count = 0
    for block in blocks_of(module):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        count += 1
    return count


def compile_blocks(module: nn.Module) -> int:
    """torch.compile on each block; returns how many there are. One block's code serves all of the same shape."""
    count = 0
    for block in blocks_of(module):
        block.compile()
        count += 1
    return count
