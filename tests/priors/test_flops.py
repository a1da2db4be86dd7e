"""Operations by formula are those that torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from vtok.priors.base import Batch, Draws, Prior
from vtok.priors.build import Facts, build_prior
from vtok.priors.flops import flops_per_token, mebt_forward

GRID = (3, 4, 4)


def _counted(prior: Prior, *arguments: Any) -> int:
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        prior(*arguments).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [{}, {"condition": "audio", "condition_length": 5, "condition_vocabulary": 7}, {"interpolation": "prefix"}],
)
def test_gpt(changes: dict[str, Any]) -> None:
    config = GptConfig.model_validate({"n_layer": 2, "n_head": 2, "n_embd": 32, **changes})
    prior = build_prior(config, Facts(20, GRID))
    batch = Batch(torch.zeros(2, *GRID, dtype=torch.long), audio_bn=torch.zeros(2, 5, dtype=torch.long))
    counted = _counted(prior, *prior.prepare(batch, Draws(0, 0)))
    assert flops_per_token(config, 20, GRID) * 2 * 48 == pytest.approx(counted)


def test_videogpt() -> None:
    config = VideoGptConfig(n_layer=2, n_head=2, n_embd=24, cond_frames=1, frame_width=12)
    prior = build_prior(config, Facts(20, GRID, resolution=16, codebook=lambda: torch.zeros(20, 8)))
    batch = Batch(torch.zeros(2, *GRID, dtype=torch.long), frames_bcthw=torch.zeros(2, 3, 1, 16, 16))
    counted = _counted(prior, *prior.prepare(batch, Draws(0, 0)))
    formula = flops_per_token(config, 20, GRID, embedding_dim=8, resolution=16) * 2 * 48
    # Neither codebook nor pixels have a gradient, and its cost is the only one that the formula has too much.
    inputs = 2 * (2 * 48 * 24 * 8 + 2 * 27 * 3 * 64 * 16**2)
    assert formula - inputs == pytest.approx(counted, rel=1e-3)


def test_mebt() -> None:
    config = MebtConfig(
        n_layer=8, n_head=2, n_embd=32, latents=5, mode=("latent_enc", "latent_self", "lt2l", "latent_dec")
    )
    prior = build_prior(config, Facts(20, GRID))
    arguments = prior.prepare(Batch(torch.zeros(2, *GRID, dtype=torch.long)), Draws(0, 0))
    division = arguments[1]
    formula = mebt_forward(config, 20, division.contexts_bn.shape[1], division.targets_bn.shape[1])
    assert 3 * 2 * formula == pytest.approx(_counted(prior, *arguments))


def test_the_paper_s_size() -> None:
    assert flops_per_token(GptConfig(), 16384, (4, 16, 16)) == pytest.approx(2.21e9, rel=0.005)
    dense = flops_per_token(MebtConfig(mode=()), 16384, (32, 16, 16))
    assert dense / flops_per_token(MebtConfig(), 16384, (32, 16, 16)) > 6, "linear in the codes, not quadratic"
    full, sparse = (flops_per_token(VideoGptConfig(attention=kind), 2048, (4, 32, 32)) for kind in ("full", "sparse"))
    assert full > 1.5 * sparse
