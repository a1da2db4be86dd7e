"""Filling in frames: what is trained is what is sampled; TATS's own way is in tests/golden."""

from __future__ import annotations

import pytest
import torch

from schemas.config.prior import GptConfig
from schemas.errors import UsageError, VtokError
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import sample_codes
from vtok.sampling.interpolate import fill_codes

GRID = (4, 2, 2)


def _prior(interpolation: str = "prefix", labels: int = 0) -> GptPrior:
    config = GptConfig.model_validate(
        {
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "interpolation": interpolation,
            "condition": "label" if labels else "none",
        }
    )
    prior = GptPrior(config, 10, GRID, labels).eval()
    with torch.no_grad():
        for number, parameter in enumerate(prior.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return prior


def _codes(seed: int = 3) -> torch.Tensor:
    return torch.randint(10, (2, *GRID), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("labels", [0, 3])
def test_the_most_likely_filling_is_the_most_likely_of_a_whole_pass(labels: int) -> None:
    prior, codes = _prior(labels=labels), _codes()
    names = torch.tensor([0, 2]) if labels else None
    filled = fill_codes(prior, codes[:, 0], codes[:, -1], labels_b=names)
    assert torch.equal(filled[:, 0], codes[:, 0])
    assert torch.equal(filled[:, -1], codes[:, -1])
    with torch.no_grad():
        best = prior.logits(filled, names).argmax(-1)
    assert torch.equal(best, filled[:, 1:-1].flatten(1))


def test_both_ends_are_seen_and_what_follows_is_not() -> None:
    prior, codes = _prior(), _codes()
    with torch.no_grad():
        before = prior.logits(codes)
        assert before.shape == (2, 8, 10)
        for frame in (0, 3):
            other = codes.clone()
            other[:, frame, 0, 0] = (other[:, frame, 0, 0] + 1) % 10
            assert not torch.isclose(prior.logits(other)[:, 0], before[:, 0]).all()
        other = codes.clone()
        other[:, 2, 0, 1] = (other[:, 2, 0, 1] + 1) % 10  # the sixth of the eight between
        after = prior.logits(other)
    assert torch.equal(after[:, :6], before[:, :6])
    assert not torch.equal(after[:, 6:], before[:, 6:])


def test_the_loss_is_on_what_lies_between() -> None:
    prior, codes = _prior(), _codes()
    targets = codes[:, 1:-1].flatten()
    wanted = torch.nn.functional.cross_entropy(prior.logits(codes).flatten(0, 1), targets)
    assert prior(codes).loss.item() == pytest.approx(wanted.item())


def test_draws_depend_on_the_generator_alone() -> None:
    prior, codes = _prior("tats"), _codes()

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return fill_codes(prior, codes[:, 0], codes[:, -1], top_k=5, generator=generator)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert int(draw(1).max()) < 10


def test_mistakes() -> None:
    codes = _codes()
    with pytest.raises(UsageError, match="does not interpolate"):
        fill_codes(_prior("none"), codes[:, 0], codes[:, -1])
    with pytest.raises(UsageError, match="cannot begin a clip"):
        sample_codes(_prior(), num=1, greedy=True)
    with pytest.raises(VtokError, match="nothing between"):
        GptPrior(GptConfig(n_layer=1, n_head=1, n_embd=8, interpolation="prefix"), 10, (2, 2, 2))
