"""Two gloo processes with half of a batch each behave as one process with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from schemas.config.tokenizer import DiscriminatorConfig, LossConfig, TokenizerConfig, VqganConfig, VqvaeConfig
from vtok.seeds import generator
from vtok.tokenizers.codebook import Codebook, GeneratorDraws
from vtok.tokenizers.collective import sum_over_ranks
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.losses import discriminator_loss, generator_loss, uses_discriminators
from vtok.tokenizers.norm import SyncBatchNorm3d

RANKS = 2


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2 * RANKS, 4, 2, 3, 3)
    return torch.randn(shape, generator=generator) * 3 + 1, torch.randn(shape, generator=generator)


def _batch_norm(x: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    layer = SyncBatchNorm3d(4).train()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -0.5, 2.0, 0.3]))
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * upstream).sum().backward()
    gradients = {"grad_x": x.grad, "grad_weight": layer.weight.grad, "grad_bias": layer.bias.grad}
    return {"out": out, **gradients, **dict(layer.named_buffers())}


def _codebook(z: torch.Tensor, seed: int, n_codes: int = 30, parity: bool = False) -> dict[str, torch.Tensor]:
    """Three batches through a new codebook: it is initialised, updated and restarted. `z` are the codes' rows."""
    codebook = Codebook(n_codes, 4, parity=parity).train()
    draws = GeneratorDraws(torch.Generator().manual_seed(seed))
    perplexity = [codebook(z * scale, draws).perplexity for scale in (1.0, 0.2, -0.5)]
    return {**codebook.state_dict(), "perplexity": torch.stack(perplexity)}


TOKENIZERS: dict[str, VqganConfig | VqvaeConfig] = {
    "vqgan": VqganConfig(embedding_dim=4, n_codes=100, n_hiddens=4, downsample=(2, 4, 4)),
    "vqvae": VqvaeConfig(embedding_dim=4, n_codes=100, n_hiddens=8, n_res_layers=1, downsample=(2, 4, 4)),
}
LOSSES = {
    "vqgan": LossConfig(l1_weight=1.0, gan_feature_weight=1.0, discriminator_start=0, gan_balance="adaptive"),
    "vqvae": TokenizerConfig.model_validate({"model": {"kind": "vqvae"}}).loss,
}
STEPS = 4


def _train(name: str, ranks: int, rank: int) -> dict[str, torch.Tensor]:
    """Some steps of gradient descent on this rank's share of the same batches, discriminators included."""
    weights = LOSSES[name]
    model = build_tokenizer(TOKENIZERS[name]).train()
    discriminators = Discriminators(DiscriminatorConfig(channels=4, layers=1), 3).train()
    modules = [model, discriminators] if uses_discriminators(weights) else [model]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.02) for module in modules]
    clips = 2 * RANKS // ranks
    share = slice(clips * rank, clips * (rank + 1))
    losses = []
    for step in range(STEPS):
        draws = generator(0, "video", step)
        video = (torch.rand(2 * RANKS, 3, 4, 16, 16, generator=draws) - 0.5)[share]
        frames = torch.randint(0, 4, (2 * RANKS,), generator=draws)[share]
        output = model(video, generator(0, "codebook", step))
        discriminators.requires_grad_(False)
        last = {"last_layer": [p for p in model.decoder.parameters() if p.ndim > 1][-1]}
        loss, scalars = generator_loss(video, output, frames, discriminators, weights, factor=1.0, **last)
        loss.backward()
        discriminators.requires_grad_(True)
        d_loss, _ = discriminator_loss(video, output.recon_bcthw, frames, discriminators, weights, factor=1.0)
        if d_loss.requires_grad:
            d_loss.backward()
        for module, optimizer in zip(modules, optimizers, strict=True):
            for p in module.parameters():
                assert p.grad is not None
                sum_over_ranks(p.grad).div_(ranks)
            optimizer.step()
            optimizer.zero_grad()
        means = torch.stack([loss, d_loss, output.commitment_loss]).detach()
        losses.append(torch.cat([sum_over_ranks(means) / ranks, scalars["perplexity"][None]]))
    return {**_detached(model.state_dict()), **_detached(discriminators.state_dict()), "losses": torch.stack(losses)}


def _detached(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in tensors.items()}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    x, upstream = _inputs()
    half = slice(2 * rank, 2 * rank + 2)
    result: dict[str, Any] = {
        "norm": _detached(_batch_norm(x[half], upstream[half])),
        "codebook": _codebook(x[half], seed=0),
        "few rows": _codebook(x[half, :, :1, :2], seed=0, n_codes=100),
        "own draws": _codebook(x[half, :, :1, :2], seed=rank, n_codes=100),
        "parity": _codebook(x[half], seed=rank, parity=True),
        "parity, few rows": _codebook(x[half, :, :1, :2], seed=rank, n_codes=100, parity=True),
        **{name: _train(name, RANKS, rank) for name in TOKENIZERS},
    }
    try:
        Codebook(8, 4).train()(x[: rank + 1], GeneratorDraws(torch.Generator().manual_seed(0)))
    except ValueError as error:
        result["uneven"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes came to."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_worker, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def test_batch_norm(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["norm"] for result in ranks)
    one = _detached(_batch_norm(*_inputs()))
    for name in ("out", "grad_x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), one[name])
    # Parameters' gradients are local: data parallelism combines them.
    for name in ("grad_weight", "grad_bias"):
        torch.testing.assert_close(first[name] + second[name], one[name])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name])


@pytest.mark.parametrize("case", ["codebook", "few rows"])
def test_codebook(ranks: list[dict[str, Any]], case: str) -> None:
    """Initialisation, averages and restarts see the batch of all ranks, also where its rows must be repeated."""
    first, second = (result[case] for result in ranks)
    x, _ = _inputs()
    one = _codebook(x, seed=0) if case == "codebook" else _codebook(x[:, :, :1, :2], seed=0, n_codes=100)
    assert (one["N"] < 1).any() and one["initialized"]
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, msg=name)


@pytest.mark.parametrize("case", ["own draws", "parity", "parity, few rows"])
def test_ranks_with_draws_of_their_own_end_with_one_codebook(ranks: list[dict[str, Any]], case: str) -> None:
    for name in ("embeddings", "N", "z_avg"):
        assert torch.equal(ranks[0][case][name], ranks[1][case][name]), name


def test_parity_restarts_from_the_first_ranks_rows_and_counts_the_own_ones(ranks: list[dict[str, Any]]) -> None:
    x, _ = _inputs()
    found = ranks[0]["parity"]
    unused = found["N"] < 1
    last_batch = {tuple(row) for row in (x[:2] * -0.5).movedim(1, -1).reshape(-1, 4).tolist()}
    assert unused.any() and {tuple(row) for row in found["embeddings"][unused].tolist()} <= last_batch
    assert not torch.equal(found["perplexity"], ranks[1]["parity"]["perplexity"])


def test_uneven_shares_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert all("shares must be equal" in result["uneven"] for result in ranks)


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_training_equals_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    """Every weight and running average after some steps with discriminators and restarts, to float tolerance."""
    one = _train(name, 1, 0)
    first, second = (result[name] for result in ranks)
    assert one["codebook.initialized"]
    assert (one["codebook.N"] < 1).any(), "codes must have been restarted"
    for key, value in build_tokenizer(TOKENIZERS[name]).named_parameters():
        if value.ndim > 1:
            assert float((one[key] - value).detach().abs().max()) > 2e-5, f"{key} must have learnt"
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
