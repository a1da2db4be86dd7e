"""Draws depend on what they are for, and on nothing else."""

from __future__ import annotations

import torch

from vtok.seeds import derive, generator


def test_every_key_counts() -> None:
    seeds = {derive(0, "a"), derive(1, "a"), derive(0, "b"), derive(0, "a", 0), derive(0, "a", 1), derive(0, "a/0/x")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_known_value() -> None:
    assert derive(0, "prior", "batch", 17) == derive(0, "prior", "batch", 17)
    assert derive(0, "x") == 6337171427373630499, "seeds must not change between versions: stored runs depend on them"


def test_generators_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    a = torch.rand(3, generator=generator(5, "x"))
    assert torch.equal(a, torch.rand(3, generator=generator(5, "x")))
    assert torch.equal(before, torch.get_rng_state())
