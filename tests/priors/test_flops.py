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
from vtok.priors.flops import codes_trained_on, flops_per_token, mebt_forward
from vtok.priors.masking import divide, draw_time, length_probabilities

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


@pytest.mark.parametrize("budget", [None, 10])
def test_mebt_on_parts_of_clips(budget: int | None) -> None:
    """The curriculum's mean over lengths, each counted by torch: short parts at first, whole clips at the end."""
    config = MebtConfig(n_layer=5, n_head=2, n_embd=32, latents=5, t_prior="gaussian2", t_range=(0.5, 0.5))
    config = config.model_copy(update={"mode": ("latent_enc", "lt2l", "latent_dec", "maskgit"), "budget": budget})
    prior, codes = build_prior(config, Facts(20, GRID)), torch.zeros(2, *GRID, dtype=torch.long)
    orders, counted = torch.arange(48).expand(2, 48), []
    for frames in (1, 2, 3):
        division = divide(orders, GRID, schedule="linear", t=0.5, frames=frames, budget=budget)
        counted.append(_counted(prior, codes, division))
    for step in (0, 30_000, 400_000):
        chances = length_probabilities("gaussian2", 3, step).tolist()
        codes_mean = sum(16 * frames * p for frames, p in enumerate(chances, start=1))
        assert codes_trained_on(config, GRID, step) == pytest.approx(codes_mean)
        found = flops_per_token(config, 20, GRID, step=step) * 2 * codes_trained_on(config, GRID, step)
        assert found == pytest.approx(sum(p * count for p, count in zip(chances, counted, strict=True)), rel=1e-5)
    assert codes_trained_on(config, GRID, 0) < 32 < codes_trained_on(config, GRID, 400_000)


def test_times_of_a_beta_distribution_count_as_often_as_they_are_drawn() -> None:
    options = {"n_layer": 5, "n_head": 2, "n_embd": 32, "latents": 5, "budget": 10}
    config = MebtConfig(**options, beta_prior=(3.0, 1.5), beta_steps=100)
    draws, source = [], torch.Generator().manual_seed(0)
    for _ in range(4000):
        masked = 48 * (1 - draw_time((3.0, 1.5), 20, 100, source))
        draws.append(3 * mebt_forward(config, 20, 48 - masked, min(masked, 10.0)) / 48)
    found = flops_per_token(config, 20, GRID, step=20)
    assert found == pytest.approx(sum(draws) / len(draws), rel=5e-3)
    assert found != pytest.approx(flops_per_token(config, 20, GRID, step=100), rel=5e-3), "evenly drawn"


def test_key_frames_count_alone() -> None:
    config = GptConfig(n_layer=2, n_head=2, n_embd=32, latent_stride=2)
    prior = build_prior(config, Facts(20, GRID))
    batch = Batch(torch.zeros(2, *GRID, dtype=torch.long))
    assert codes_trained_on(config, GRID) == 32
    counted = _counted(prior, *prior.prepare(batch, Draws(0, 0)))
    assert flops_per_token(config, 20, GRID) * 2 * 32 == pytest.approx(counted)


def test_the_paper_s_size() -> None:
    assert flops_per_token(GptConfig(), 16384, (4, 16, 16)) == pytest.approx(2.21e9, rel=0.005)
    dense = flops_per_token(MebtConfig(mode=()), 16384, (32, 16, 16))
    assert dense / flops_per_token(MebtConfig(), 16384, (32, 16, 16)) > 6, "linear in the codes, not quadratic"
    full, sparse = (flops_per_token(VideoGptConfig(attention=kind), 2048, (4, 32, 32)) for kind in ("full", "sparse"))
    assert full > 1.5 * sparse
