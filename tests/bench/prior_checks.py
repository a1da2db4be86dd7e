"""Whether the contenders of `gpu_prior.py` compute the same, on the device that they are timed on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from schemas.config.prior import GptConfig, MebtConfig
from tests.bench.gpu import Bench
from tests.bench.prior_parts import codes_of, draws, gpt_of, half, heads_of, in_bfloat16, loss_inputs, mebt_of
from tests.bench.seed_priors import SeedGpt, SeedMebt, attention, naive_cross_entropy
from vtok.priors.chunked_loss import summed_cross_entropy
from vtok.priors.flex import attend, kernel_mask
from vtok.priors.sparse import block_layout, mask_of


def check(bench: Bench) -> None:
    """What is about to be timed computes the same."""
    grid, n_codes = ((2, 4, 8), 64) if bench.tiny else ((4, 16, 16), 1024)
    codes = codes_of(bench, 2, n_codes, grid)
    config = GptConfig(n_layer=2, n_head=4, n_embd=64, parity=True)
    gpt = gpt_of(bench, config, n_codes, grid)
    exact, exact_grad = _with_gradient(gpt, lambda: gpt(codes).loss)
    seed, seed_grad = _with_gradient(gpt, lambda: SeedGpt(gpt).loss(codes)[0])
    bench.check("GPT, ours and the seed's in fp32: loss", abs(exact - seed) / seed, 1e-4)
    bench.check("GPT, ours and the seed's in fp32: gradient", _apart(exact_grad, seed_grad), 1e-3)
    small, small_grad = _with_gradient(gpt, lambda: in_bfloat16(bench, lambda: gpt(codes).loss))
    bench.check("GPT, bf16 and fp32: loss", abs(exact - small) / exact, 1e-2)
    bench.check("GPT, bf16 and fp32: gradient", _apart(exact_grad, small_grad), 0.1)
    mebt = mebt_of(bench, MebtConfig(n_layer=5, n_head=4, n_embd=64, latents=16), n_codes, grid).eval()
    division = half(bench, 2, grid)
    ours, our_grad = _with_gradient(mebt, lambda: mebt(codes, division).loss)
    theirs, their_grad = _with_gradient(mebt, lambda: SeedMebt(mebt).loss(codes, division)[0])
    bench.check("MeBT, ours and the seed's in fp32: loss", abs(ours - theirs) / theirs, 1e-4)
    bench.check("MeBT, ours and the seed's in fp32: gradient", _apart(our_grad, their_grad), 1e-3)
    features, weight, targets = loss_inputs(bench, 600, 64, n_codes)
    naive = torch.autograd.grad(naive_cross_entropy(features, weight, targets), (features, weight))
    summed = summed_cross_entropy(features, weight, targets, chunk=256)
    chunked = torch.autograd.grad(summed.mean().loss, (features, weight))
    for name, a, b in zip(("features", "weight"), chunked, naive, strict=True):
        bench.check(f"cross-entropy, by chunks and naive: gradient of {name}", _apart(a, b), 1e-3)
    grid = (2, 8, 16) if bench.tiny else (4, 32, 32)
    layout = block_layout(grid).to(bench.device)
    query, key, value = heads_of(bench, 1, 2, math.prod(grid), 64, torch.bfloat16)
    if not bench.cuda:  # FlexAttention goes back on a GPU only
        query, key, value = (x.detach() for x in (query, key, value))
    out = attend(query, key, value, kernel_mask(layout))
    dense = attention(query.float(), key.float(), value.float(), mask_of(layout))
    bench.check("FlexAttention in bf16 and a dense mask in fp32", _apart(out.float(), dense), 0.02)
    if bench.cuda:
        weights = torch.randn(out.shape, generator=draws(bench), device=bench.device)
        ours_grads = torch.autograd.grad((out.float() * weights).sum(), (query, key, value))
        dense_grads = torch.autograd.grad((dense * weights).sum(), (query, key, value))
        for name, a, b in zip(("query", "key", "value"), ours_grads, dense_grads, strict=True):
            bench.check(f"FlexAttention and a dense mask: gradient of {name}", _apart(a.float(), b.float()), 0.03)


def _with_gradient(prior: Any, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """The loss, and its gradient for all weights in one vector."""
    prior.zero_grad(set_to_none=True)
    found = loss()
    found.backward()
    return float(found.detach()), torch.cat([p.grad.flatten() for p in prior.parameters() if p.grad is not None])


def _apart(a: Tensor, b: Tensor) -> float:
    """Length of the difference, relative to that of b."""
    return float((a - b).norm() / b.norm())
