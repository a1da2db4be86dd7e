"""What TATS's GPT has not: rotary positions, normalised queries, dropout, dropped conditions, masked leaks, boxes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from schemas.config.prior import GptConfig
from schemas.errors import UsageError
from vtok.priors.base import Batch, Draws
from vtok.priors.chunked_loss import IGNORED
from vtok.priors.rope import turn, turns_of
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import sample_codes

GRID = (3, 2, 3)


def _prior(classes: int = 0, grid: tuple[int, int, int] = GRID, **options: Any) -> GptPrior:
    config = GptConfig.model_validate({"n_layer": 2, "n_head": 2, "n_embd": 16, **options})
    prior = GptPrior(config, 10, grid, classes).eval()
    with torch.no_grad():
        for number, parameter in enumerate(prior.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    return prior


def _codes(grid: tuple[int, int, int] = GRID, batch: int = 2) -> torch.Tensor:
    return torch.randint(10, (batch, *grid), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("options", [{"positions": "rope"}, {"qk_norm": True}, {"positions": "rope", "qk_norm": True}])
def test_cached_equals_whole(options: dict[str, Any]) -> None:
    prior, codes = _prior(**options), _codes()
    drawn = sample_codes(prior, num=2, greedy=True)
    with torch.no_grad():
        assert torch.equal(prior.logits(drawn).argmax(-1), drawn.flatten(1))
        before = prior.logits(codes)
        codes[:, -1] = (codes[:, -1] + 1) % 10
        assert torch.equal(prior.logits(codes)[:, :12], before[:, :12]), "the future is not seen"


def test_rotary_positions_are_relative_and_have_no_end() -> None:
    x = torch.randn(2, 1, 2, 12, generator=torch.Generator().manual_seed(1))
    near, far = (turns_of(1 + torch.tensor([a, b]), 1, 4, 4, 12) for a, b in ((21, 38), (53, 70)))
    products = [(turn(x, turns)[0, 0, 0] * turn(x, turns)[1, 0, 1]).sum() for turns in (near, far)]
    torch.testing.assert_close(*products, msg="one frame, one row and one column apart, wherever")
    longer = sample_codes(_prior(positions="rope"), num=1, frames=5, greedy=True)
    assert longer.shape == (1, 5, 2, 3)
    assert torch.equal(longer[:, :3], sample_codes(_prior(positions="rope"), num=1, greedy=True))
    with pytest.raises(ValueError, match="block size"):
        sample_codes(_prior(), num=1, frames=5, greedy=True)
    with pytest.raises(ValueError, match="at least 6"):
        GptConfig(n_embd=16, n_head=4, positions="rope")


def test_given_frames_are_continued() -> None:
    prior, first = _prior(), _codes()[:, :1]
    codes = sample_codes(prior, num=2, first_bthw=first, greedy=True)
    assert torch.equal(codes[:, :1], first)
    with torch.no_grad():
        assert torch.equal(prior.logits(codes).argmax(-1)[:, 6:], codes.flatten(1)[:, 6:])


def test_seen_frames_have_no_loss() -> None:
    clean, original = _prior(interpolation="tats"), _prior(interpolation="tats", parity=True)
    targets = clean.inputs(_codes())[1]
    assert (targets == IGNORED).sum(1).tolist() == [12, 12]
    assert (targets[:, 6:12] != IGNORED).all()
    assert (original.inputs(_codes())[1] != IGNORED).all()


def test_clips_that_fill_up_a_batch_count_for_nothing() -> None:
    prior, codes = _prior(), _codes(batch=3)
    padded = torch.cat([codes, torch.full_like(codes[:1], -1)])
    assert prior(padded).loss.item() == pytest.approx(prior(codes).loss.item(), rel=1e-6)


def test_dropped_conditions_and_guidance() -> None:
    prior = _prior(classes=4, condition="label", condition_drop=0.5)
    assert (prior.offset, prior.transformer.vocab_size) == (5, 15)
    batch = Batch(_codes(batch=2), torch.tensor([1, 3]))
    seen = [prior.prepare(batch, Draws(0, step))[1].flatten().tolist() for step in range(40)]  # type: ignore[union-attr]
    assert {a for a, _ in seen} == {1, 4} and {b for _, b in seen} == {3, 4}
    assert seen == [prior.prepare(batch, Draws(0, step))[1].flatten().tolist() for step in range(40)]  # type: ignore[union-attr]
    second = Batch(batch.codes_bthw[1:], torch.tensor([3]))
    alone = [prior.prepare(second, Draws(0, step, first=1))[1].item() for step in range(40)]  # type: ignore[union-attr]
    assert alone == [b for _, b in seen], "the same on any number of ranks"
    assert prior.prepare(batch, Draws(0, 1, purpose="val"))[1].flatten().tolist() == [1, 3]  # type: ignore[union-attr]
    labels = torch.tensor([1, 3])
    plain, none, strong = (sample_codes(prior, num=2, labels_b=labels, greedy=True, guidance=g) for g in (1, 0, 8))
    unconditional = sample_codes(prior, num=2, labels_b=torch.tensor([4, 4]), greedy=True)
    assert torch.equal(none, unconditional)
    assert not torch.equal(strong, none) and not torch.equal(plain, none)
    with pytest.raises(UsageError, match="condition_drop"):
        sample_codes(_prior(classes=4, condition="label"), num=2, labels_b=labels, greedy=True, guidance=2)


def test_dropout_is_for_training() -> None:
    prior, codes = _prior(dropout=0.5, attention_dropout=0.2), _codes()
    with torch.no_grad():
        assert torch.equal(prior.logits(codes), prior.logits(codes))
        prior.train()
        assert not torch.equal(prior.logits(codes), prior.logits(codes))


def test_normalised_queries_take_the_dtype_of_autocast() -> None:
    """torch warns, and takes the slow way, where the gain is of another dtype than the queries."""
    prior, before = _prior(qk_norm=True), torch.is_warn_always_enabled()
    exact = prior(_codes()).loss.item()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
            warnings.simplefilter("error")
            assert prior(_codes()).loss.item() == pytest.approx(exact, rel=1e-2)
    finally:
        torch.set_warn_always(before)


def test_the_mask_of_the_ends_is_made_once() -> None:
    prior = _prior(interpolation="prefix")
    tokens = prior.inputs(_codes())[0]
    first, second = (prior._options(tokens, None) for _ in range(2))
    assert first["mask_nn"] is second["mask_nn"] and first["positions_n"] is second["positions_n"]
    assert prior._options(tokens[:, :-1], None)["mask_nn"].shape == (tokens.shape[1] - 1,) * 2
    assert prior._options(tokens.to("meta"), None)["mask_nn"].device.type == "meta"


def test_every_nth_latent_frame() -> None:
    prior = _prior(grid=(5, 2, 3), latent_stride=2)
    codes = _codes((5, 2, 3))
    assert prior.grid == (3, 2, 3)
    assert torch.equal(prior.prepare(Batch(codes), Draws(0, 0))[0], codes[:, ::2])


def test_boxes_mark_their_places() -> None:
    prior, codes = _prior(boxes=True, box_grid=(3, 4, 6)), _codes()
    boxes = torch.tensor([[0, 3, 0, 2, 0, 3], [0, 3, 1, 3, 2, 5]])
    with pytest.raises(ValueError, match="place of every crop"):
        prior.prepare(Batch(codes), Draws(0, 0))
    arguments = prior.prepare(Batch(codes, boxes_b6=boxes), Draws(0, 0))
    with torch.no_grad():
        here, there = prior.logits(*arguments), prior.logits(codes, None, boxes.flip(0))
    assert not torch.allclose(here, there)
    assert torch.equal(sample_codes(prior, num=1, greedy=True), sample_codes(prior, num=1, greedy=True))


def test_mistakes_in_the_config() -> None:
    for options, what in (
        ({"condition": "audio"}, "condition_length and condition_vocabulary"),
        ({"condition_drop": 0.1}, "needs a condition"),
        ({"condition": "text", "interpolation": "prefix"}, "one condition token"),
        ({"boxes": True, "latent_stride": 2}, "boxes work with"),
        ({"condition_length": 3}, "one token"),
    ):
        with pytest.raises(ValueError, match=what):
            GptConfig.model_validate(options)
