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
from tests.bench.gpu import Bench, Section, main  # noqa: E402
from tests.bench.prior_checks import check  # noqa: E402
from tests.bench.prior_parts import (  # noqa: E402
    codes_of,
    draws,
    gpt_of,
    half,
    heads_of,
    in_bfloat16,
    loss_inputs,
    mebt_of,
    our_step,
)
from tests.bench.seed_priors import (  # noqa: E402
    SeedGpt,
    SeedMebt,
    attention,
    compiled,
    descend,
    naive_cross_entropy,
)
from trainers.meter import peak_flops  # noqa: E402
from vtok.priors.chunked_loss import summed_cross_entropy  # noqa: E402
from vtok.priors.flex import attend, kernel_mask  # noqa: E402
from vtok.priors.flops import flops_per_token, mebt_forward  # noqa: E402
from vtok.priors.masking import Division  # noqa: E402
from vtok.priors.sparse import block_layout, mask_of  # noqa: E402
from vtok.priors.videogpt import VideoGptPrior  # noqa: E402

Make = Callable[[int], Callable[[], Any]]
"""From a batch size to the work on such a batch."""
MEBT_TIMES = (0.5, 0.1, 0.9, 0.3)
"""Shares of the codes that are seen, step by step."""


def race(bench: Bench, contenders: Mapping[str, Make], batch: int, tokens: int, flops: float) -> None:
    """Times training steps; `flops` a token."""
    peak = peak_flops(torch.cuda.get_device_name()) if bench.cuda else None
    share = None if peak is None else flops / peak
    bench.race(contenders, batch, units=tokens, unit="tok/s", share_of_peak=share)


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
    features, weight, targets = loss_inputs(bench, tokens, width, n_codes)
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
        exact = heads_of(bench, 4, heads, tokens, width, torch.float32)
        small = heads_of(bench, 4, heads, tokens, width, torch.bfloat16)
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
            try:
                found = _forward_and_both(bench, forward, inputs, name == "ours")
            except Exception as error:  # the others run all the same
                bench.excuse(f"{name}, {heads} x {width}", error)
                continue
            for kind, ms in found.items():
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
    """S13: steps of MeBT's prior on 1,024 codes, at several times in turn. The trainer, too, draws one for every step,
    and so the shapes change."""
    config = _mebt_config(bench)
    n_codes, grid, batch = (64, (2, 4, 4), 2) if bench.tiny else (16_384, (4, 16, 16), 16)

    def batches(count: int) -> list[tuple[Tensor, Division]]:
        codes = codes_of(bench, count, n_codes, grid)
        return [(codes, half(bench, count, grid, t)) for t in MEBT_TIMES]

    def published(count: int) -> Callable[[], Any]:
        seed, given = SeedMebt(mebt_of(bench, config, n_codes, grid)), batches(count)
        return lambda: [seed.step(*one) for one in given]

    def helped(count: int) -> Callable[[], Any]:
        seed, given = SeedMebt(mebt_of(bench, config, n_codes, grid)), batches(count)
        if bench.compile:
            compiled(seed.blocks)

        def step(one: tuple[Tensor, Division]) -> float:
            return descend(in_bfloat16(bench, lambda: seed.loss(*one)[0]), seed.adam)

        return lambda: [step(one) for one in given]

    def ours(count: int) -> Callable[[], Any]:
        return our_step(bench, mebt_of(bench, config, n_codes, grid), *batches(count))

    tokens = math.prod(grid)
    forward = sum(mebt_forward(config, n_codes, t * tokens, (1 - t) * tokens) for t in MEBT_TIMES)
    flops, units = 3 * forward / (tokens * len(MEBT_TIMES)), tokens * len(MEBT_TIMES)
    race(bench, {"seed, published": published, "seed, helped": helped, "ours": ours}, batch, units, flops)


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
    Section("check", 60, check),
    Section("gpt", 140, gpt),
    Section("mebt", 120, mebt),
    Section("videogpt", 70, videogpt),
    Section("sparse", 70, sparse),
    Section("cross_entropy", 40, cross_entropy),
    Section("memory", 35, memory),
]
"""By worth: training (S11, S13, S14) before its parts (S14, S15) and memory."""

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
