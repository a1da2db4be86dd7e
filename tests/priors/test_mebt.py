"""MeBT's prior, its masks and its decoding: rules; the original's numbers are in tests/golden."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from schemas.config.prior import MebtConfig
from vtok.priors.masking import SCHEDULES, divide, draft_partition, length_probabilities, masked_count, revise_partition
from vtok.priors.mebt import MebtPrior
from vtok.sampling.parallel import draft, everywhere, random_orders, revise, sample_masked

GRID = (2, 4, 4)


def small(**changes: Any) -> MebtPrior:
    options = {"n_layer": 6, "n_head": 2, "n_embd": 16, "latents": 4, "dropout": 0.0, "attention_dropout": 0.0}
    return MebtPrior(MebtConfig(**{**options, **changes}), 12, GRID).eval()  # type: ignore[arg-type]


def orders(batch: int = 2) -> torch.Tensor:
    return random_orders(batch, 32, torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("grid", "millions"), [((4, 16, 16), 337), ((32, 16, 16), 345)])
def test_published_sizes(grid: tuple[int, int, int], millions: int) -> None:
    with torch.device("meta"):
        prior = MebtPrior(MebtConfig(), 16384, grid)
    assert sum(p.numel() for p in prior.parameters()) / 1e6 == pytest.approx(millions, abs=0.9)


def test_the_order_of_layers() -> None:
    published = ["latent_enc", "latent_self"] * 6 + ["latent_enc"] + ["latent_dec", "lt2l"] * 5 + ["latent_dec"]
    assert MebtConfig().modes() == published
    assert MebtConfig(n_layer=3, mode=("latent_enc",)).modes() == ["latent_enc", "maskgit", "maskgit"]
    for layers in range(2, 12):
        modes = MebtConfig(n_layer=layers).modes()
        assert len(modes) == layers
        assert modes[0] == "latent_enc"
        assert modes[-1] == "latent_dec"


def test_targets_have_no_order_and_no_contexts_are_fine() -> None:
    prior, order = small(), orders()
    codes = torch.randint(12, (2, 32), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        forwards = prior.logits(codes, order[:, :10], order[:, 10:])
        backwards = prior.logits(codes, order[:, :10], order[:, 10:].flip(1)).flip(1)
        torch.testing.assert_close(forwards, backwards)
        assert prior.logits(codes, order[:, :0], order).isfinite().all()


def test_a_target_does_not_see_its_own_code() -> None:
    prior, order = small(mode=("latent_enc", "maskgit")), orders()
    codes = torch.randint(12, (2, 32), generator=torch.Generator().manual_seed(6))
    other = codes.scatter(1, order[:, 10:], (codes.gather(1, order[:, 10:]) + 1) % 12)
    with torch.no_grad():
        assert torch.equal(*(prior.logits(c, order[:, :10], order[:, 10:]) for c in (codes, other)))


def test_memory_is_linear_in_the_codes() -> None:
    """No tensor of a forward pass grows with the square of the number of codes."""
    biggest = {}
    for frames in (4, 8):
        prior = MebtPrior(MebtConfig(n_layer=4, n_head=2, n_embd=16, latents=4), 12, (frames, 8, 8)).eval()
        places = everywhere(1, frames * 64)
        sizes: list[int] = []

        class Watch(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor):
                    sizes.append(out.numel())  # noqa: B023
                return out

        with Watch(), torch.no_grad():
            prior.logits(places % 12, places[:, :64], places[:, 64:])
        biggest[frames] = max(sizes)
    assert biggest[8] <= 2.5 * biggest[4]


def test_the_loss_of_a_fresh_prior_is_that_of_a_guess() -> None:
    prior = small()
    codes = torch.randint(12, (4, *GRID), generator=torch.Generator().manual_seed(6))
    for t in (0.2, 0.9):
        division = divide(orders(4), GRID, schedule="linear", t=t)
        assert prior(codes, division).loss.item() == pytest.approx(math.log(12), rel=0.05)
    small_budget = divide(orders(4), GRID, schedule="linear", t=0.0, budget=8)
    assert prior(codes, small_budget).loss.item() == pytest.approx(math.log(12) * 8 / 32, rel=0.1)


def test_divisions() -> None:
    order = orders()
    part = divide(order, GRID, schedule="linear", t=0.5, first_frame=1, frames=1)
    both = torch.cat([part.contexts_bn, part.targets_bn], dim=1)
    assert torch.equal(both.sort(1).values, torch.arange(16, 32).expand(2, -1))
    assert part.masked == 8
    assert divide(order, GRID, schedule="linear", t=1.0).targets_bn.shape[1] == 1
    assert divide(order, GRID, schedule="linear", t=1.0, parity=True).targets_bn.shape[1] == 32


def test_schedules_fall_from_one_to_nothing() -> None:
    t = torch.linspace(0, 1, 33)
    for name, schedule in SCHEDULES.items():
        share = schedule(t)
        assert share[0] == 1, name
        assert share.diff().max() <= 1e-6, name
        assert masked_count(name, 1.0, 1024) == 0, name  # type: ignore[arg-type]
    published = [1023, 1020, 1013, 1005, 994, 980]
    assert [masked_count("cosine", k / 32, 1024) for k in range(1, 7)] == published


def test_the_length_curriculum_never_breaks() -> None:
    for step in (0, 10**5, 10**7, 10**9):
        for prior in ("longest", "uniform", "gaussian2", "gaussian100000_2"):
            probabilities = length_probabilities(prior, 32, step)  # type: ignore[arg-type]
            assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert length_probabilities("gaussian2", 32, 0).argmax() == 0
    assert length_probabilities("gaussian2", 32, 10**9).argmax() == 31


def test_partitions_hold_every_place_once() -> None:
    places, none = everywhere(2, 32), torch.zeros(2, 0, dtype=torch.long)
    for partition in (draft_partition, revise_partition):
        for contexts, targets in partition(none, places, orders(), 4):
            both = torch.cat([contexts, targets], dim=1)
            assert torch.equal(both.sort(1).values, places)
    with pytest.raises(ValueError, match="do not divide"):
        list(draft_partition(none, places, orders(), 5))


def test_decoding_draws_every_code_and_leaves_what_is_given() -> None:
    prior, places = small(), everywhere(2, 32)
    given = torch.full((2, 32), 7)
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 5}

    def run(seed: int) -> list[torch.Tensor]:
        draws = torch.Generator().manual_seed(seed)
        some = sample_masked(
            prior.logits,
            given,
            places[:, :8],
            places[:, 8:],
            steps=6,
            context_temperature=4,
            generator=draws,
            **options,
        )
        assert torch.equal(some.order_bn.sort(1).values, places)
        targets, order = places[:, 8:], random_orders(2, 24, draws)
        drafted = draft(prior.logits, given, places[:, :8], targets, order, steps=4, generator=draws, **options)
        again = torch.stack([random_orders(2, 24, draws) for _ in range(2)])
        revised = revise(prior.logits, drafted, places[:, :8], targets, again, steps=3, generator=draws, **options)
        return [some.codes_bn, drafted, revised]

    for codes in run(1):
        assert (codes[:, :8] == 7).all()
        assert codes.min() >= 0
        assert codes.max() < 12
    assert all(torch.equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(run(1), run(2), strict=True))


def test_where_nothing_is_seen_every_weight_still_has_a_gradient() -> None:
    """Plain torch leaves weights without one where they are, ZeRO moves them on: the two must not differ."""
    prior = small().train()
    division = divide(orders(), GRID, schedule="linear", t=0.0)
    assert division.contexts_bn.shape[1] == 0
    prior(torch.zeros(2, *GRID, dtype=torch.long), division).loss.backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None] == []
