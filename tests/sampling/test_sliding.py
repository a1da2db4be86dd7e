"""Windows over time; the original's numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from schemas.errors import UsageError
from vtok.priors.gpt import GPT
from vtok.sampling.autoregressive import sample_tokens
from vtok.sampling.sliding import Draw, fill_hierarchy, slide


def _gpt(block: int = 16) -> GPT:
    gpt = GPT(12, block, 2, 2, 16).eval()
    with torch.no_grad():
        for number, parameter in enumerate(gpt.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return gpt


START = torch.tensor([[1], [2]])


def test_a_clip_that_fits_is_drawn_in_one_go() -> None:
    gpt = _gpt()
    whole = sample_tokens(gpt, START, 12, most_likely=True).unflatten(1, (3, 4))
    assert torch.equal(slide(gpt, START, 3, 4, 3, Draw()), whole)


@pytest.mark.parametrize("context", [1, 2, 3])
def test_every_frame_follows_from_its_window(context: int) -> None:
    gpt = _gpt()
    tokens = slide(gpt, START, 9, 4, context, Draw(first_allowed=3))
    assert tokens.shape == (2, 9, 4)
    assert int(tokens.min()) >= 3
    window = torch.cat([START, tokens[:, 5 - context : 5].flatten(1)], dim=1)
    assert torch.equal(sample_tokens(gpt, window, 4, most_likely=True, first_allowed=3), tokens[:, 5])


def test_a_window_that_does_not_fit() -> None:
    for context in (0, 4):
        with pytest.raises(UsageError, match="latent frames of context") as caught:
            slide(_gpt(), START, 9, 4, context, Draw())
        assert caught.value.hint == "choose 1 to 3"


def test_keys_stay_and_gaps_are_filled() -> None:
    keys = torch.randint(12, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    filled = fill_hierarchy(_gpt(21), START, keys, 3, Draw(), tats=False)
    assert filled.shape == (2, 9, 4)
    assert torch.equal(filled[:, ::4], keys)
