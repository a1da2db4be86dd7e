"""Blocks that are computed again in the backward pass, compiled, or both."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from tests.trainers.tiny_task import Tiny
from trainers.blocks import blocks_of, checkpoint_blocks, compile_blocks


class Normed(torch.nn.Module):
    """A block with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.norm(self.linear(x)).tanh())


class TwoNormed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Normed(), Normed()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.square().sum()


def test_recomputed_blocks_keep_less() -> None:
    model = Tiny(0.0)
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    def kept() -> int:
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.zeros(64, 5, dtype=torch.long), torch.zeros(64, 5, dtype=torch.long))
        return sum(saved)

    before = kept()
    assert checkpoint_blocks(model) == 2
    assert kept() < 0.6 * before


@pytest.mark.parametrize("kind", [Normed, Tiny])
def test_a_copy_of_a_recomputed_model_is_a_model_of_its_own(kind: type) -> None:
    model = Tiny(0.0) if kind is Tiny else TwoNormed()
    inputs = (torch.ones(2, 5, dtype=torch.long),) * 2 if kind is Tiny else (torch.ones(4, 6),)
    checkpoint_blocks(model)
    another = copy.deepcopy(model)
    another(*inputs).backward()
    assert all(p.grad is not None for p in another.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("normed", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_recomputed_blocks_are_compiled_too(normed: bool) -> None:
    torch.manual_seed(0)
    plain = TwoNormed() if normed else Tiny(0.2)
    inputs = (torch.randn(8, 6),) if normed else (torch.arange(10).view(2, 5), torch.arange(10).view(2, 5))
    found: dict[str, list[Any]] = {}
    for name in ("plain", "both"):
        model, graphs = copy.deepcopy(plain), []

        def backend(graph: Any, example: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return aot_eager(graph, example)

        torch._dynamo.reset()
        if name == "both":
            assert checkpoint_blocks(model) == compile_blocks(model, backend) == 2
        values = []
        for step in range(2):
            torch.manual_seed(step)
            loss = model(*inputs)
            loss.backward()
            values.append(float(loss.detach()))
        assert bool(graphs) == (name == "both")
        found[name] = [values, *(p.grad for p in model.parameters()), *model.buffers()]
    torch.testing.assert_close(found["both"], found["plain"])


def test_blocks_are_the_outermost_and_keep_their_names() -> None:
    model = Tiny(0.0)
    names = list(model.state_dict())
    assert list(blocks_of(torch.nn.Sequential(model))) == list(model.blocks)
    assert compile_blocks(model) == 2
    assert list(model.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in model.blocks)
