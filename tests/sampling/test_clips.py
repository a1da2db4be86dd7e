"""Clips from priors of every kind by the options of a recipe: windows, given frames, a pair of priors, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from schemas.config.prior import GptConfig, MebtConfig, SampleConfig, VideoGptConfig
from schemas.errors import UsageError
from vtok.priors.base import Batch, Draws
from vtok.priors.build import AnyPrior, Facts, build_prior
from vtok.priors.tats import GptPrior
from vtok.sampling.clips import draw_clips

GRID, CODES = (4, 2, 2), 9
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 24}


def _built(config: GptConfig | VideoGptConfig | MebtConfig, grid: tuple[int, int, int] = GRID) -> AnyPrior:
    prior = build_prior(config, Facts(CODES, grid, 3, 8, lambda: torch.randn(CODES, 4, generator=_draws(0)))).eval()
    with torch.no_grad():
        for number, parameter in enumerate(prior.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=_draws(number))
    return prior


def _gpt(grid: tuple[int, int, int] = GRID, **options: Any) -> GptPrior:
    prior = _built(GptConfig.model_validate({**SMALL, **options}), grid)
    assert isinstance(prior, GptPrior)
    return prior


def _mebt(**options: Any) -> AnyPrior:
    return _built(MebtConfig.model_validate({**SMALL, "latents": 4, **options}))


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _given(batch: int = 2) -> Batch:
    codes = torch.randint(CODES, (batch, *GRID), generator=_draws(9))
    return Batch(codes, torch.tensor([0, 2][:batch]))


def _draw(prior: AnyPrior, given: Batch, fill: GptPrior | None = None, **options: Any) -> torch.Tensor:
    config = SampleConfig.model_validate(options)
    return draw_clips(prior, given, config, [_draws(number) for number in range(len(given.codes_bthw))], fill)


@pytest.mark.parametrize("kind", ["gpt", "mebt", "mebt-draft"])
def test_given_frames_stay_and_clips_may_be_longer(kind: str) -> None:
    prior = _gpt() if kind == "gpt" else _mebt()
    masked = {"method": "draft", "steps": 4, "revise_passes": 1} if kind == "mebt-draft" else {"steps": 4}
    options: dict[str, Any] = {"given_frames": 2, "latent_frames": 7, "context_frames": 2, "masked": masked}
    given = _given()
    codes = _draw(prior, given, **options)
    assert codes.shape == (2, 7, 2, 2)
    assert torch.equal(codes[:, :2], given.codes_bthw[:, :2])
    assert int(codes.min()) >= 0 and int(codes.max()) < CODES
    alone = _draw(prior, Batch(given.codes_bthw[:1]), **options)
    assert torch.equal(alone, codes[:1]), "a clip does not depend on its batch"


def test_a_pair_of_priors() -> None:
    keys, between = _gpt((13, 2, 2), latent_stride=4), _gpt((5, 2, 2), interpolation="prefix")
    codes = _draw(keys, _given(), between, latent_frames=4)
    assert codes.shape == (2, 13, 2, 2)
    assert torch.equal(codes[:, ::4], _draw(keys, _given(), latent_frames=4))
    with pytest.raises(UsageError, match="does not interpolate"):
        _draw(keys, _given(), _gpt())


def test_ends_are_given_to_a_prior_that_interpolates() -> None:
    codes = _draw(_gpt(interpolation="prefix"), _given())
    assert torch.equal(codes[:, [0, 3]], _given().codes_bthw[:, [0, 3]])


def test_videogpt() -> None:
    prior = _built(VideoGptConfig.model_validate({**SMALL, "kind": "videogpt", "condition": "label"}))
    codes = _draw(prior, _given(), top_k=3)
    assert codes.shape == (2, *GRID)
    assert torch.equal(_draw(prior, Batch(_given(1).codes_bthw, torch.tensor([0])), top_k=3), codes[:1])
    for option, value in (("given_frames", 1), ("latent_frames", 5), ("guidance", 2.0)):
        with pytest.raises(UsageError, match=option):
            _draw(prior, _given(), **{option: value})


def test_guidance_of_mebt() -> None:
    prior = _mebt(condition="label", condition_drop=0.1)
    torch.nn.init.normal_(prior.class_emb, generator=_draws(4))  # type: ignore[arg-type]
    masked = {"steps": 2, "context_temperature": 0.0}
    plain, guided = (_draw(prior, _given(), guidance=g, masked=masked) for g in (1.0, 6.0))
    assert not torch.equal(plain, guided)
    with pytest.raises(UsageError, match="condition_drop"):
        _draw(_mebt(condition="label"), _given(), guidance=2.0)
    with pytest.raises(UsageError, match="leave nothing to draw"):
        _draw(_mebt(), Batch(_given().codes_bthw), latent_frames=9, context_frames=4)


def _videogpt(**options: Any) -> AnyPrior:
    return _built(VideoGptConfig.model_validate({**SMALL, "kind": "videogpt", **options}))


def test_guidance_of_videogpt_moves_away_from_no_class() -> None:
    prior = _videogpt(condition="label", condition_drop=0.1)
    codes = _draw(prior, _given(), guidance=3.0)
    alone = _draw(prior, Batch(_given(1).codes_bthw, torch.tensor([0])), guidance=3.0)
    assert torch.equal(alone, codes[:1]), "a clip does not depend on its batch"
    assert not torch.equal(codes, _draw(prior, _given()))
    classless = Batch(_given().codes_bthw, torch.full((2,), prior.no_class))  # type: ignore[union-attr]
    assert torch.equal(_draw(prior, _given(), guidance=0.0), _draw(prior, classless)), "guidance 0: no class at all"
    for refused in (_videogpt(condition="label"), _videogpt()):
        with pytest.raises(UsageError, match="condition_drop"):
            _draw(refused, _given(), guidance=2.0)


def test_videogpt_trains_some_clips_without_their_class() -> None:
    prior = _videogpt(condition="label", condition_drop=0.5)
    given = Batch(torch.zeros(64, *GRID, dtype=torch.long), torch.ones(64, dtype=torch.long))
    _, labels, _ = prior.prepare(given, Draws(0, 3))
    assert set(labels.tolist()) == {1, 3}
    assert prior.prepare(given, Draws(0, 3, purpose="val"))[1].tolist() == [1] * 64


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_guidance_in_windows(guidance: float) -> None:
    prior = _gpt(condition="label", condition_drop=0.1)
    options: dict[str, Any] = {"latent_frames": 9, "context_frames": 2}
    codes = _draw(prior, _given(), guidance=guidance, **options)
    assert codes.shape == (2, 9, 2, 2)
    without = Batch(_given().codes_bthw, torch.full((2,), prior.offset - 1))
    unguided = _draw(prior, without if guidance == 0 else _given(), **options)
    assert torch.equal(codes, unguided) == (guidance == 0)
    with pytest.raises(UsageError, match="condition_drop"):
        _draw(_gpt(condition="label"), _given(), guidance=2.0, **options)


def test_guidance_between_two_ends() -> None:
    prior = _gpt(interpolation="prefix", condition="label", condition_drop=0.1)
    codes = _draw(prior, _given(), guidance=5.0)
    assert torch.equal(codes[:, [0, 3]], _given().codes_bthw[:, [0, 3]])
    assert not torch.equal(codes, _draw(prior, _given()))
    without = Batch(_given().codes_bthw, torch.full((2,), prior.offset - 1))
    assert torch.equal(_draw(prior, _given(), guidance=0.0), _draw(prior, without))
    with pytest.raises(UsageError, match="condition_drop"):
        _draw(_gpt(interpolation="prefix", condition="label"), _given(), guidance=2.0)
    keys = _gpt((13, 2, 2), latent_stride=4, condition="label", condition_drop=0.1)
    assert _draw(keys, _given(), _gpt((5, 2, 2), interpolation="prefix"), guidance=2.0).shape == (2, 13, 2, 2)


def test_a_prior_of_crops_draws_the_whole_picture() -> None:
    prior = _gpt((2, 2, 2), boxes=True, box_grid=(3, 4, 3), condition="label", condition_drop=0.1)
    given = _given()._replace(codes_bthw=torch.randint(CODES, (2, 3, 4, 3), generator=_draws(9)))
    codes = _draw(prior, given, given_frames=1)
    assert codes.shape == (2, 3, 4, 3)
    assert torch.equal(codes[:, :1], given.codes_bthw[:, :1])
    assert _draw(prior, given, latent_frames=5, guidance=3.0).shape == (2, 5, 4, 3)
    with pytest.raises(UsageError, match="given frames are of"):
        _draw(prior, _given(), given_frames=1)
