"""Crops that slide over a picture; the original's numbers are in tests/golden (`sample_long_spatial`)."""

from __future__ import annotations

import itertools

import pytest
import torch

from schemas.config.prior import GptConfig
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import sample_codes
from vtok.sampling.picture import crops, draw_picture
from vtok.sampling.sliding import Draw


def _prior(grid: tuple[int, int, int], places: tuple[int, int, int]) -> GptPrior:
    config = GptConfig(n_layer=2, n_head=2, n_embd=16, boxes=True, box_grid=places)
    prior = GptPrior(config, 7, grid).eval()
    with torch.no_grad():
        for number, parameter in enumerate(prior.parameters()):
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(number))
    return prior


@pytest.mark.parametrize(("total", "size"), [((6, 6, 6), (3, 4, 4)), ((2, 5, 3), (2, 2, 3)), ((4, 1, 7), (1, 1, 2))])
def test_every_place_has_a_crop_inside_the_clip(total: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    found = dict(crops(total, size, 1))
    assert list(found) == list(itertools.product(*map(range, total)))
    for here, crop in found.items():
        for axis in range(3):
            assert crop.start[axis] + crop.inside[axis] == here[axis]
            assert 0 <= crop.start[axis] <= total[axis] - size[axis]
            assert 0 <= crop.inside[axis] < size[axis]


def test_a_clip_as_large_as_a_crop_is_drawn_as_ever() -> None:
    prior = _prior((2, 3, 2), (2, 3, 2))
    start = torch.zeros(2, 1, dtype=torch.long)
    tokens = draw_picture(prior, start, (2, 3, 2), 1, Draw(first_allowed=prior.offset))
    assert torch.equal(tokens - prior.offset, sample_codes(prior, num=2, greedy=True))


def test_every_code_follows_from_its_crop() -> None:
    prior = _prior((2, 2, 2), (3, 4, 5))
    codes = draw_picture(prior, torch.zeros(2, 1, dtype=torch.long), (3, 4, 5), 1, Draw(first_allowed=1)) - 1
    for here, crop in crops((3, 4, 5), (2, 2, 2), 1):
        window = tuple(slice(first, first + 2) for first in crop.start)
        box = torch.tensor([[edge for first in crop.start for edge in (first, first + 2)]] * 2)
        logits = prior.logits(codes[(slice(None), *window)], boxes_b6=box)[:, crop.number]
        assert torch.equal(logits.argmax(1), codes[(slice(None), *here)])
