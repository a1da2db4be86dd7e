from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vtok.tokenizers.codebook import Codebook, GeneratorDraws


def _draws(seed: int = 0) -> GeneratorDraws:
    return GeneratorDraws(torch.Generator().manual_seed(seed))


def _z(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(1, dim, 1, 1, rows, generator=torch.Generator().manual_seed(seed))


def _known(vectors: list[list[float]], **options: object) -> Codebook:
    """A codebook in use: every code was counted once."""
    codebook = Codebook(len(vectors), len(vectors[0]), **options)
    value = torch.tensor(vectors)
    codebook.load_state_dict({"embeddings": value, "z_avg": value.clone(), "N": torch.ones(len(vectors))})
    return codebook.train()


def test_ema_step_by_hand() -> None:
    codebook = _known([[0.0, 0.0], [10.0, 10.0]], random_restart=False)
    z = torch.tensor([[1.0, 1.0], [1.0, 3.0], [9.0, 9.0]]).T.reshape(1, 2, 1, 1, 3)
    output = codebook(z)
    assert output.codes_bthw.flatten().tolist() == [0, 0, 1]
    n = torch.tensor([0.99 + 0.01 * 2, 0.99 + 0.01 * 1])
    z_avg = torch.tensor([[0.02, 0.04], [9.9 + 0.09, 9.9 + 0.09]])
    weights = (n + 1e-7) / (n.sum() + 2e-7) * n.sum()
    torch.testing.assert_close(codebook.N, n)
    torch.testing.assert_close(codebook.z_avg, z_avg)
    torch.testing.assert_close(codebook.embeddings, z_avg / weights[:, None])
    # Distances to the vectors before the step: 1+1, 1+9, 1+1 over 6 values, times 0.25.
    assert float(output.commitment_loss) == pytest.approx(0.25 * 14 / 6)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert float(output.perplexity) == pytest.approx(math.exp(entropy))


def test_gradient_goes_straight_through() -> None:
    codebook = _known([[0.0, 0.0], [10.0, 10.0]], random_restart=False).eval()
    z = _z(4, 2).requires_grad_()
    output = codebook(z)
    output.embeddings_bcthw.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    torch.testing.assert_close(output.embeddings_bcthw, codebook.lookup(output.codes_bthw))


def test_perplexity_lies_between_one_and_the_number_of_codes() -> None:
    corners = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    codebook = _known(corners).eval()
    one = torch.zeros(1, 2, 1, 1, 4)
    every = torch.tensor(corners).T.reshape(1, 2, 1, 1, 4)
    assert float(codebook(one).perplexity) == pytest.approx(1, abs=1e-5)
    assert float(codebook(every).perplexity) == pytest.approx(4, abs=1e-5)


def test_first_batch_initialises_and_a_resumed_codebook_keeps_its_vectors() -> None:
    first = Codebook(4, 3, random_restart=False).train()
    assert not first.initialized
    z = _z(16, 3)
    first(z, _draws())
    assert first.initialized
    resumed = Codebook(4, 3, random_restart=False)
    resumed.load_state_dict(first.state_dict())
    resumed.train()
    first(_z(16, 3, seed=1))
    resumed(_z(16, 3, seed=1))
    assert torch.equal(first.embeddings, resumed.embeddings)


def test_a_codebook_saved_before_its_first_batch_still_initialises() -> None:
    fresh = Codebook(4, 3, random_restart=False)
    fresh.load_state_dict(Codebook(4, 3).state_dict())
    rows = {tuple(row) for row in _z(16, 3).reshape(3, 16).T.tolist()}
    fresh.train()._initialise(_z(16, 3).reshape(3, 16).T, _draws())
    assert {tuple(row) for row in fresh.embeddings.tolist()} <= rows


def test_few_rows_are_tiled_with_noise() -> None:
    codebook = Codebook(10, 2).train()
    rows = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    codebook._initialise(rows, _draws())
    assert len({tuple(row) for row in codebook.embeddings.tolist()}) == 10
    nearest = torch.cdist(codebook.embeddings, rows).min(1).values
    assert 0 < float(nearest.max()) < 0.1


def test_restart_replaces_unused_codes_only_and_leaves_the_averages() -> None:
    vectors = [[0.0, 0.0], [100.0, 100.0]]
    codebook = _known(vectors, random_restart=True, restart_threshold=1.0)
    reference = _known(vectors, random_restart=False)
    z = _z(50, 2)
    codebook(z, _draws())
    reference(z)
    assert torch.equal(codebook.embeddings[0], reference.embeddings[0])
    assert codebook.embeddings[1].tolist() in z.reshape(2, 50).T.tolist()
    assert torch.equal(codebook.N, reference.N)
    assert torch.equal(codebook.z_avg, reference.z_avg)


def test_draws_depend_on_the_generator_alone() -> None:
    state = torch.get_rng_state()
    runs = []
    for seed in (3, 3, 4):
        codebook = Codebook(8, 3).train()
        codebook(_z(32, 3), _draws(seed))
        runs.append(codebook.embeddings)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="generator"):
        Codebook(8, 3).train()(_z(32, 3))


def test_evaluation_changes_nothing() -> None:
    codebook = Codebook(8, 3).eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(_z(32, 3))
    for name, value in codebook.state_dict().items():
        assert torch.equal(value, before[name]), name


class _LargestTensor(TorchDispatchMode):
    """Records the most values that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtok.tokenizers.codebook._MAX_DISTANCES", 1 << 13)
    codebook = Codebook(512, 4).train()
    z = _z(2048, 4)
    with _LargestTensor() as seen:
        codebook(z, _draws())
    # Neither one-hot matrices nor all distances (2048 * 512 values) exist at any time.
    assert seen.largest <= 1 << 13


def test_chunks_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook(64, 4).eval()
    z = _z(300, 4)
    whole = codebook(z).codes_bthw
    monkeypatch.setattr("vtok.tokenizers.codebook._MAX_DISTANCES", 64 * 7)
    assert torch.equal(codebook(z).codes_bthw, whole)
    rows = z.reshape(4, 300).T
    assert torch.equal(torch.cdist(rows.double(), codebook.embeddings.double()).argmin(1), whole.flatten())


def test_parts_of_the_codes_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small integers, so that every sum is exact and many codes are equally near."""
    draws = torch.Generator().manual_seed(0)
    codebook = Codebook(500, 4).eval()
    codebook.embeddings.copy_(torch.randint(-6, 7, (500, 4), generator=draws))
    codebook.embeddings[130:260] = codebook.embeddings[:130].clone()
    rows = torch.randint(-6, 7, (300, 4), generator=draws).float()
    exact = (rows[:, None] - codebook.embeddings).square().sum(-1).argmin(1)
    assert {0, 2, 3} <= set((exact // 128).tolist()) and not set(range(130, 260)) & set(exact.tolist())
    for most in (1 << 22, 256 * 128):  # all codes at once; four parts of them
        monkeypatch.setattr("vtok.tokenizers.codebook._MAX_DISTANCES", most)
        assert torch.equal(codebook.nearest(rows[None])[0], exact)


def test_codes_of_a_clip_do_not_depend_on_its_neighbours() -> None:
    codebook = Codebook(64, 4).eval()
    clips = [_z(50, 4, seed) for seed in range(3)]
    together = codebook(torch.cat(clips)).codes_bthw
    for i, clip in enumerate(clips):
        assert torch.equal(codebook(clip).codes_bthw[0], together[i])


def test_equally_near_vectors_give_the_lowest_code() -> None:
    codebook = _known([[5.0, 5.0], [1.0, 1.0], [1.0, 1.0]]).eval()
    assert codebook(torch.zeros(1, 2, 1, 1, 1)).codes_bthw.item() == 1
