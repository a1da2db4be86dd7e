from __future__ import annotations

import pytest
import torch

from vtok.sampling.logits import draw, filter_logits, greedy, sample_logits

LOG = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def _kept(filtered: torch.Tensor) -> list[int]:
    return torch.nonzero(filtered[0] > -torch.inf).flatten().tolist()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_top_k_keeps_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert _kept(filter_logits(logits, top_k=2)) == [1, 2, 3]
    assert _kept(filter_logits(logits, top_k=1)) == [1]
    for everything in (None, 0, 5, 99):
        assert torch.equal(filter_logits(logits, top_k=everything), logits)


def test_top_p_keeps_the_token_that_crosses() -> None:
    assert _kept(filter_logits(LOG, top_p=0.4)) == [0]
    assert _kept(filter_logits(LOG, top_p=0.6)) == [0, 1]
    assert _kept(filter_logits(LOG, top_p=0.9)) == [0, 1, 2]
    assert _kept(filter_logits(LOG, top_p=1e-6)) == [0]
    assert torch.equal(filter_logits(LOG, top_p=1.0), LOG)


def test_reaching_p_exactly_is_not_crossing_it() -> None:
    # Four times 0.25: the third token still starts at 0.5, not above it.
    assert len(_kept(filter_logits(torch.zeros(1, 4), top_p=0.5))) == 3


def test_top_p_looks_at_what_top_k_left() -> None:
    # Of 0.5 and 0.3, renormalised, the first has 0.625.
    assert _kept(filter_logits(LOG, top_k=2, top_p=0.6)) == [0]
    assert _kept(filter_logits(LOG, top_k=2, top_p=0.7)) == [0, 1]


def test_order_does_not_matter() -> None:
    logits = torch.randn(6, 50, generator=_generator(0))
    order = torch.randperm(50, generator=_generator(1))
    for options in ({"top_k": 7}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.8}):
        assert torch.equal(filter_logits(logits, **options)[:, order], filter_logits(logits[:, order], **options))


def test_the_argument_is_left_alone() -> None:
    logits = LOG.clone()
    filter_logits(logits, top_k=1, top_p=0.5)
    sample_logits(logits, 0.5, top_k=2, top_p=0.5, generator=_generator(0))
    assert torch.equal(logits, LOG)


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).expand(20_000, -1)
    counts = torch.bincount(draw(probabilities, _generator(0)), minlength=6) / 20_000
    torch.testing.assert_close(counts, probabilities[0], rtol=0, atol=0.015)
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]


def test_draws_depend_on_the_generator_alone() -> None:
    state = torch.get_rng_state()
    logits = torch.randn(8, 100, generator=_generator(0))
    first, again, other = (sample_logits(logits, generator=_generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_with_a_generator_each_rows_are_independent() -> None:
    logits = torch.randn(4, 100, generator=_generator(0))
    together = sample_logits(logits, generator=[_generator(s) for s in range(4)])
    alone = torch.cat([sample_logits(logits[i : i + 1], generator=[_generator(i)]) for i in range(4)])
    assert torch.equal(together, alone)
    with pytest.raises(ValueError, match="2 generators for 4 rows"):
        sample_logits(logits, generator=[_generator(0), _generator(1)])


def test_a_low_temperature_is_greedy() -> None:
    logits = torch.randn(16, 30, generator=_generator(0))
    assert torch.equal(sample_logits(logits, 1e-4, generator=_generator(1)), greedy(logits))
