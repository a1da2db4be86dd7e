"""torch.compile makes one graph for all blocks of a prior: past its limit of graphs it would give up in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from trainers.blocks import blocks_of, checkpoint_blocks, compile_blocks
from vtok.priors.base import Batch, Draws
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior
from vtok.priors.videogpt import VideoGptPrior

SIZE: dict[str, Any] = {"n_layer": 12, "n_head": 2, "n_embd": 32}
CODES = torch.randint(9, (2, 2, 4, 4), generator=torch.Generator().manual_seed(0))


def _graphs(prior: torch.nn.Module, calls: list[tuple[Any, ...]]) -> int:
    """Graphs made while the blocks run: traced as ever, but run by torch itself, without a compiler."""
    torch._dynamo.reset()
    counters.clear()
    for block in blocks_of(prior):
        block.compile(backend="eager")
    for arguments in calls:
        prior(*arguments).loss.backward()
    assert not counters["recompile_limit"] and not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.soak
@pytest.mark.parametrize("options", [{}, {"positions": "rope", "qk_norm": True}, {"interpolation": "prefix"}])
def test_one_graph_for_all_blocks_of_a_gpt(options: dict[str, Any]) -> None:
    prior = GptPrior(GptConfig(**SIZE, **options), 9, (4, 4, 2))
    assert _graphs(prior, [(CODES.view(2, 4, 4, 2),)] * 2) == 1


@pytest.mark.soak
def test_a_few_graphs_for_all_masks_of_mebt() -> None:
    prior = MebtPrior(MebtConfig(**SIZE, latents=8), 9, (2, 4, 4))
    assert _graphs(prior, [prior.prepare(Batch(CODES), Draws(0, step)) for step in range(8)]) <= 6


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["gpt", "rope", "prefix", "full", "sparse", "mebt"])
def test_recomputed_blocks_of_a_prior_are_traced_whole(kind: str) -> None:
    """With compiled and recomputed blocks the loss and its gradients are those of neither."""
    found: list[tuple[float, torch.Tensor]] = []
    for together in (False, True):
        prior = _prior(kind)
        torch._dynamo.reset()
        counters.clear()
        if together:
            checkpoint_blocks(prior)
            compile_blocks(prior, "aot_eager")
        batch = Batch(CODES.view(2, *prior.grid), labels_b=torch.tensor([0, 2]))
        for step in range(2):
            torch.manual_seed(step)
            output = prior(*prior.prepare(batch, Draws(0, step)))
            output.loss.backward()
        found.append((float(output.loss.detach()), torch.cat([p.grad.flatten() for p in prior.parameters()])))
        assert not counters["graph_break"] and not counters["recompile_limit"]
        assert (counters["stats"]["unique_graphs"] > 0) == together
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def _prior(kind: str) -> Any:
    small = {"n_layer": 5, "n_head": 2, "n_embd": 24}
    if kind == "mebt":
        return MebtPrior(MebtConfig(**{**small, "n_layer": 3}, latents=8), 9, (2, 4, 4))
    if kind in ("full", "sparse"):
        dropout = {"attention_dropout": 0.0} if kind == "sparse" else {}
        config = VideoGptConfig(**small, condition="label", attention=kind, **dropout)
        return VideoGptPrior(config, torch.randn(9, 8, generator=torch.Generator().manual_seed(1)), (2, 4, 4), 3)
    options: dict[str, Any] = {"positions": "rope", "qk_norm": True} if kind == "rope" else {"dropout": 0.1}
    options |= {"interpolation": "prefix"} if kind == "prefix" else {}
    return GptPrior(GptConfig(**small, **options), 9, (2, 4, 4) if kind != "prefix" else (4, 4, 2))
