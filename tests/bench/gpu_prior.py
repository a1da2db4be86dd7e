"""Priors on one GPU within ten minutes: correctness, then training, the loss, sparse attention and memory.

    python tests/bench/gpu_prior.py --out gpu_prior.json
    python tests/bench/gpu_prior.py --device cpu --tiny     # does the script itself work?

Needs torch and numpy (`bare.py` stands in for the rest). The seed is written out in `seed_priors.py`: published is
float32 and eager, helped is bfloat16 autocast and torch.compile. They train the same weights on the same codes as ours,
which is the trainer's own step: plain engine, bfloat16, compiled blocks, fused AdamW. Batches are halved until they
fit. MFU is by `vtok/priors/flops.py`, over the dense 16-bit peak.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.bench import bare  # noqa: E402

bare.prepare()

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig  # noqa: E402
from schemas.config.train import OptimConfig, TrainConfig  # noqa: E402
from tests.bench.gpu import Bench, Section, main  # noqa: E402
from tests.bench.seed_priors import (  # noqa: E402
    SeedGpt,
    SeedMebt,
    attention,
    compiled,
    descend,
    naive_cross_entropy,
)
from trainers.engine import make_engine  # noqa: E402
from trainers.meter import peak_flops  # noqa: E402
from vtok.priors.chunked_loss import summed_cross_entropy  # noqa: E402
from vtok.priors.flex import attend, kernel_mask  # noqa: E402
from vtok.priors.flops import flops_per_token, mebt_forward  # noqa: E402
from vtok.priors.masking import Division, divide  # noqa: E402
from vtok.priors.mebt import MebtPrior  # noqa: E402
from vtok.priors.sparse import block_layout, mask_of  # noqa: E402
from vtok.priors.tats import GptPrior  # noqa: E402
from vtok.priors.videogpt import VideoGptPrior  # noqa: E402

Shape = tuple[int, int, int]
Make = Callable[[int], Callable[[], Any]]
"""From a batch size to the work on such a batch."""


def draws(bench: Bench) -> torch.Generator:
    return torch.Generator(bench.device).manual_seed(0)


def codes_of(bench: Bench, batch: int, n_codes: int, grid: Shape) -> Tensor:
    return torch.randint(n_codes, (batch, *grid), generator=draws(bench), device=bench.device)


def gpt_of(bench: Bench, config: GptConfig, n_codes: int, grid: Shape) -> GptPrior:
    with bench.device:
        return GptPrior(config, n_codes, grid, generator=draws(bench))


def mebt_of(bench: Bench, config: MebtConfig, n_codes: int, grid: Shape) -> MebtPrior:
    with bench.device:
        return MebtPrior(config, n_codes, grid, draws(bench))


def half(bench: Bench, batch: int, grid: Shape) -> Division:
    """Half of the codes of each clip seen, the others to be predicted."""
    chances = torch.rand(batch, math.prod(grid), generator=draws(bench), device=bench.device)
    return divide(
        chances.argsort(1), grid, schedule="linear", t=0.5, first_frame=0, frames=grid[0], budget=None, parity=False
    )


def race(bench: Bench, contenders: Mapping[str, Make], batch: int, tokens: int, flops: float) -> None:
    """Times training steps; `flops` a token."""
    rates: dict[str, float] = {}
    peak = peak_flops(torch.cuda.get_device_name()) if bench.cuda else None
    for name, make in contenders.items():
        bench.free()
        try:
            size, work = bench.largest(batch, make)
            ms = bench.milliseconds(work)
        except Exception as error:  # the other contenders run all the same
            bench.report(name, error=f"{type(error).__name__}: {str(error)[:200]}", ok=False)
            continue
        rate = size * tokens / ms * 1e3
        values: dict[str, Any] = {"batch": size, "ms": ms, "tok/s": rate, "peak GiB": bench.held_gib()}
        if peak is not None:
            values["MFU %"] = 100 * rate * flops / peak
        values |= {f"times {other}": rate / rates[other] for other in rates if other.startswith("seed")}
        rates[name] = rate
        bench.report(name, **values)
        del work


def in_bfloat16(bench: Bench, loss: Callable[[], Tensor]) -> Tensor:
    with torch.autocast(bench.device.type, torch.bfloat16):
        return loss()


def our_step(
    bench: Bench, prior: Any, arguments: tuple[Any, ...], *, compile_it: bool | None = None
) -> Callable[[], Any]:
    """The trainer's step on one GPU."""
    train = TrainConfig(precision="bf16", compile=bench.compile if compile_it is None else compile_it)
    optim = OptimConfig(lr=1e-4, clip_grad_norm=None)
    engine = make_engine("plain", prior, prior.optim_groups(optim.weight_decay), optim, train)

    def step() -> float:
        output = engine(*arguments)
        engine.backward(output.loss)
        loss = float(output.loss.detach())
        engine.step(1e-4)
        return loss

    return step


# Correctness


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
    features, weight, targets = _loss_inputs(bench, 600, 64, n_codes)
    naive = torch.autograd.grad(naive_cross_entropy(features, weight, targets), (features, weight))
    summed = summed_cross_entropy(features, weight, targets, chunk=256)
    chunked = torch.autograd.grad(summed.mean().loss, (features, weight))
    for name, a, b in zip(("features", "weight"), chunked, naive, strict=True):
        bench.check(f"cross-entropy, by chunks and naive: gradient of {name}", _apart(a, b), 1e-3)
    grid = (2, 8, 16) if bench.tiny else (4, 32, 32)
    layout = block_layout(grid).to(bench.device)
    query, key, value = _heads(bench, 1, 2, math.prod(grid), 64, torch.bfloat16)
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


def _loss_inputs(bench: Bench, tokens: int, width: int, n_codes: int) -> tuple[Tensor, Tensor, Tensor]:
    source = draws(bench)
    features = torch.randn(tokens, width, generator=source, device=bench.device).requires_grad_()
    weight = (0.02 * torch.randn(n_codes, width, generator=source, device=bench.device)).requires_grad_()
    return features, weight, torch.randint(n_codes, (tokens,), generator=source, device=bench.device)


def _heads(bench: Bench, batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    source, shape = draws(bench), (batch, heads, tokens, width)
    return [torch.randn(shape, generator=source, device=bench.device).to(dtype).requires_grad_() for _ in range(3)]


# Training


def gpt(bench: Bench) -> None:
    """S11: TATS's GPT of 337 M parameters on 1,024 codes a clip."""
    size = {"n_layer": 2, "n_head": 2, "n_embd": 32} if bench.tiny else {"n_layer": 24, "n_head": 16, "n_embd": 1024}
    config = GptConfig(**size, parity=True)
    n_codes, grid, batch = (64, (2, 4, 4), 2) if bench.tiny else (16_384, (4, 16, 16), 16)

    def published(count: int) -> Callable[[], Any]:
        seed, codes = SeedGpt(gpt_of(bench, config, n_codes, grid)), codes_of(bench, count, n_codes, grid)
        return lambda: seed.step(codes)

    def helped(count: int) -> Callable[[], Any]:
        seed, codes = SeedGpt(gpt_of(bench, config, n_codes, grid)), codes_of(bench, count, n_codes, grid)
        if bench.compile:
            compiled(seed.blocks)
        return lambda: descend(in_bfloat16(bench, lambda: seed.loss(codes)[0]), seed.adam)

    def ours(count: int, *, compile_it: bool | None = None) -> Callable[[], Any]:
        prior = gpt_of(bench, config, n_codes, grid)
        return our_step(bench, prior, (codes_of(bench, count, n_codes, grid),), compile_it=compile_it)

    contenders = {"seed, published": published, "seed, helped": helped, "ours": ours}
    if bench.compile:
        contenders["ours, eager"] = lambda count: ours(count, compile_it=False)
    race(bench, contenders, batch, math.prod(grid), flops_per_token(config, n_codes, grid))


def cross_entropy(bench: Bench) -> None:
    """S15: loss and gradients of the last layer of 16 clips."""
    tokens, width, n_codes = (256, 32, 512) if bench.tiny else (16_384, 1024, 16_384)
    features, weight, targets = _loss_inputs(bench, tokens, width, n_codes)
    fused = torch.compile(naive_cross_entropy) if bench.compile else naive_cross_entropy
    losses: dict[str, Callable[[], Tensor]] = {
        "seed, published": lambda: naive_cross_entropy(features, weight, targets),
        "seed, helped": lambda: in_bfloat16(bench, lambda: fused(features, weight, targets)),
        "ours": lambda: in_bfloat16(bench, lambda: summed_cross_entropy(features, weight, targets).mean().loss),
    }
    peaks: dict[str, float | None] = {}
    for name, loss in losses.items():

        def work(loss: Callable[[], Tensor] = loss) -> None:
            torch.autograd.grad(loss(), (features, weight))

        ms = bench.milliseconds(work)
        peaks[name] = bench.peak_mib(work)
        bench.report(name, ms=ms, **{"peak MiB": peaks[name]})
    naive, chunked = peaks["seed, helped"], peaks["ours"]
    if naive is not None and chunked is not None:
        bench.check("peak memory of ours, as a share of the helped seed's", chunked / naive, 0.25)


def sparse(bench: Bench) -> None:
    """S14: one layer's attention over 4,096 codes, VideoGPT's heads and heads of 64."""
    grid = (2, 8, 16) if bench.tiny else (4, 32, 32)
    tokens, layout = math.prod(grid), block_layout(grid).to(bench.device)
    kernel, pattern = kernel_mask(layout), mask_of(layout)
    causal = torch.ones(tokens, tokens, device=bench.device).tril()
    fused = torch.compile(attention) if bench.compile else attention
    for heads, width in ((2, 16),) if bench.tiny else ((4, 144), (8, 64)):
        exact = _heads(bench, 4, heads, tokens, width, torch.float32)
        small = _heads(bench, 4, heads, tokens, width, torch.bfloat16)
        works: dict[str, tuple[list[Tensor], Callable[..., Tensor]]] = {
            "seed, published": (exact, lambda *x: attention(*x, causal)),
            "seed, helped": (small, lambda *x: fused(*x, causal)),
            "dense causal SDPA": (small, lambda *x: F.scaled_dot_product_attention(*x, is_causal=True)),
            "sparse as a mask": (small, lambda *x: F.scaled_dot_product_attention(*x, attn_mask=pattern)),
            "ours": (small, lambda *x: attend(*x, kernel)),
        }
        dense: dict[str, float] = {}
        for name, (inputs, forward) in works.items():
            values = {"heads": f"{heads} x {width}"}
            for kind, ms in _forward_and_both(bench, forward, inputs, name == "ours").items():
                dense |= {kind: ms} if name == "dense causal SDPA" else {}
                values |= {f"{kind} ms": ms} | ({f"{kind}, times dense": dense[kind] / ms} if kind in dense else {})
            bench.report(name, **values)


def _forward_and_both(
    bench: Bench, forward: Callable[..., Tensor], inputs: list[Tensor], flex: bool
) -> dict[str, float]:
    """Milliseconds forward, and forward and backward: FlexAttention goes back on a GPU only."""
    alone = [x.detach() for x in inputs]
    found = {"forward": bench.milliseconds(lambda: forward(*alone))}
    if bench.cuda or not flex:
        found["both"] = bench.milliseconds(lambda: torch.autograd.grad(forward(*inputs).sum(), inputs))
    return found


def videogpt(bench: Bench) -> None:
    """S14: VideoGPT's prior of 33 M parameters on 4,096 codes a clip, full and sparse; no dropout."""
    size = {"n_layer": 2, "n_head": 2, "n_embd": 48} if bench.tiny else {}
    n_codes, grid, batch = (64, (2, 8, 16), 2) if bench.tiny else (2048, (4, 32, 32), 8)
    table = torch.randn(n_codes, 256, generator=draws(bench), device=bench.device)

    def make(kind: str) -> Make:
        config = VideoGptConfig(**size, attention=kind, dropout=0.0, attention_dropout=0.0)

        def ours(count: int) -> Callable[[], Any]:
            with bench.device:
                prior = VideoGptPrior(config, table, grid, generator=draws(bench))
            return our_step(bench, prior, (codes_of(bench, count, n_codes, grid),))

        return ours

    flops = flops_per_token(VideoGptConfig(**size), n_codes, grid)
    race(bench, {"ours, full": make("full")}, batch, math.prod(grid), flops)
    flops = flops_per_token(VideoGptConfig(**size, attention="sparse"), n_codes, grid)
    race(bench, {"ours, sparse": make("sparse")}, batch, math.prod(grid), flops)


def mebt(bench: Bench) -> None:
    """S13: a step of MeBT's prior on 1,024 codes, half of them masked."""
    config = _mebt_config(bench)
    n_codes, grid, batch = (64, (2, 4, 4), 2) if bench.tiny else (16_384, (4, 16, 16), 16)

    def seeded(count: int) -> tuple[SeedMebt, tuple[Tensor, Division]]:
        seed = SeedMebt(mebt_of(bench, config, n_codes, grid))
        return seed, (codes_of(bench, count, n_codes, grid), half(bench, count, grid))

    def published(count: int) -> Callable[[], Any]:
        seed, batch = seeded(count)
        return lambda: seed.step(*batch)

    def helped(count: int) -> Callable[[], Any]:
        seed, batch = seeded(count)
        if bench.compile:
            compiled(seed.blocks)
        return lambda: descend(in_bfloat16(bench, lambda: seed.loss(*batch)[0]), seed.adam)

    def ours(count: int) -> Callable[[], Any]:
        codes = codes_of(bench, count, n_codes, grid)
        return our_step(bench, mebt_of(bench, config, n_codes, grid), (codes, half(bench, count, grid)))

    tokens = math.prod(grid)
    flops = 3 * mebt_forward(config, n_codes, tokens / 2, tokens / 2) / tokens
    race(bench, {"seed, published": published, "seed, helped": helped, "ours": ours}, batch, tokens, flops)


def memory(bench: Bench) -> None:
    """S13: what a step of MeBT's prior holds grows with the codes, and not with their square; beside it TATS's GPT."""
    config, n_codes = _mebt_config(bench), 64 if bench.tiny else 16_384
    same = GptConfig(n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd)
    side, peaks = 2 if bench.tiny else 16, []
    for frames in (4, 8, 16, 32):
        grid = (frames, side, side)
        codes = codes_of(bench, 1, n_codes, grid)
        prior = mebt_of(bench, config, n_codes, grid)
        peaks.append(_peak_of_loss(bench, prior, (codes, half(bench, 1, grid))))
        del prior
        bench.report(
            f"{math.prod(grid)} codes",
            **{
                "MeBT MiB": peaks[-1],
                "GPT MiB": _peak_of_loss(bench, gpt_of(bench, same, n_codes, grid), (codes,)),
                "GPT FLOP / MeBT FLOP": flops_per_token(same, n_codes, grid) / flops_per_token(config, n_codes, grid),
            },
        )
    if None not in peaks:  # linear: four times as many codes more, four times as much memory more
        first, second, third, fourth = peaks
        bench.check("growth of MeBT's memory over linear growth", (fourth - third) / (second - first) / 4, 1.25)


def _mebt_config(bench: Bench) -> MebtConfig:
    size = {"n_layer": 5, "n_head": 2, "n_embd": 32, "latents": 8} if bench.tiny else {}
    return MebtConfig(**size, dropout=0.0, attention_dropout=0.0)


def _peak_of_loss(bench: Bench, prior: Any, arguments: tuple[Any, ...]) -> float | None:
    def work() -> None:
        in_bfloat16(bench, lambda: prior(*arguments).loss).backward()
        prior.zero_grad(set_to_none=True)

    work()
    return bench.peak_mib(work)


SECTIONS = [
    Section("check", 90, check),
    Section("gpt", 170, gpt),
    Section("cross_entropy", 60, cross_entropy),
    Section("sparse", 110, sparse),
    Section("mebt", 150, mebt),
    Section("videogpt", 100, videogpt),
    Section("memory", 60, memory),
]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
