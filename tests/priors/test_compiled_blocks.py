"""torch.compile makes one graph for all blocks of a prior: past its limit of graphs it would give up in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from schemas.config.prior import GptConfig, MebtConfig
from trainers.blocks import blocks_of
from vtok.priors.base import Batch, Draws
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior

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
