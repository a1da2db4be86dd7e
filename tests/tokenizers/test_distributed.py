"""Two gloo processes with half of a batch each behave as one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vtok.tokenizers.codebook import Codebook, GeneratorDraws
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


def _codebook(z: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    codebook = Codebook(8, 4, random_restart=False)
    codebook.initialized.fill_(True)
    codebook.train()
    for _ in range(2):
        codebook(z)
    restarted = Codebook(8, 4, random_restart=True)
    restarted.train()(z, GeneratorDraws(torch.Generator().manual_seed(seed)))
    return {**codebook.state_dict(), "restarted": restarted.embeddings}


def _detached(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in tensors.items()}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    x, upstream = _inputs()
    half = slice(2 * rank, 2 * rank + 2)
    result: dict[str, Any] = {
        "norm": _detached(_batch_norm(x[half], upstream[half])),
        "codebook": _detached(_codebook(x[half], seed=rank)),
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    x, upstream = _inputs()

    one = _detached(_batch_norm(x, upstream))
    for name in ("out", "grad_x"):
        torch.testing.assert_close(torch.cat([first["norm"][name], second["norm"][name]]), one[name])
    # Parameters' gradients are local: data parallelism combines them.
    for name in ("grad_weight", "grad_bias"):
        torch.testing.assert_close(first["norm"][name] + second["norm"][name], one[name])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first["norm"][name], second["norm"][name])
        torch.testing.assert_close(first["norm"][name], one[name])

    one = _detached(_codebook(x, seed=0))
    for name in ("N", "z_avg", "embeddings"):
        assert torch.equal(first["codebook"][name], second["codebook"][name]), name
        torch.testing.assert_close(first["codebook"][name], one[name])
    # Ranks with different rows and different generators end with rank 0's vectors.
    assert torch.equal(first["codebook"]["restarted"], second["codebook"]["restarted"])
