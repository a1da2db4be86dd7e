"""What the benches of tokenizers share: interleaved timing, peak memory, and the original codebook's method.

Needs torch, numpy, pydantic, jaxtyping and PyYAML only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, with all that it left running on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(works: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every contender, `rounds` times, after one warm-up; each round starts with another contender."""
    names = list(works)
    for name in names:
        works[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(seconds(works[name], device))
    return found


def ratio(found: Mapping[str, list[float]], name: str, other: str) -> float:
    """How many times as fast `name` is as `other`: the median of the rounds' ratios."""
    return statistics.median(b / a for a, b in zip(found[name], found[other], strict=True))


def table(found: Mapping[str, list[float]], pairs: Sequence[str]) -> str:
    """Median, least and most milliseconds of every contender, and how many times as fast as each of `pairs` it is."""
    lines = [
        "| contender | ms | least to most | " + " | ".join(f"times {p}" for p in pairs) + " |",
        "|---|" + "---|" * (2 + len(pairs)),
    ]
    for name, times in found.items():
        ms = [1e3 * t for t in times]
        cells = [f"{statistics.median(ms):.1f}", f"{min(ms):.1f} to {max(ms):.1f}"]
        cells += [f"{ratio(found, name, other):.2f}" for other in pairs]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most memory that one call takes beyond what is held before it (on a CPU: Linux only, resident pages)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # getrusage's peak is that of the parent to begin with; the kernel's own can be set back.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident()
    work()
    return _peak_resident() - before


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class OneHotCodebook:
    """The method of VideoGPT and TATS: all distances at once, one-hot matrices, statistics by products with them.

    Args:
        state: `embeddings`, `N` and `z_avg`, of which it keeps copies.
        training: update the moving averages and restart unused codes.
    """

    def __init__(self, state: Mapping[str, Tensor], training: bool) -> None:
        self.embeddings, self.counts, self.sums = (state[name].clone() for name in ("embeddings", "N", "z_avg"))
        self.training = training

    def __call__(self, z_bcthw: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors with straight-through gradient, and int64 codes."""
        rows = z_bcthw.movedim(1, -1).flatten(0, -2)
        size = len(self.embeddings)
        distances = (
            rows.square().sum(1, keepdim=True)
            - 2 * rows @ self.embeddings.t()
            + self.embeddings.t().square().sum(0, keepdim=True)
        )
        codes = distances.argmin(1)
        one_hot = F.one_hot(codes, size).type_as(rows)
        codes_bthw = codes.view(z_bcthw.shape[0], *z_bcthw.shape[2:])
        vectors = F.embedding(codes_bthw, self.embeddings).movedim(-1, 1)
        self.commitment = 0.25 * F.mse_loss(z_bcthw, vectors.detach())
        if self.training:
            self._learn(rows.detach(), one_hot)
        probabilities = one_hot.mean(0)
        self.perplexity = torch.exp(-(probabilities * (probabilities + 1e-10).log()).sum())
        return (vectors - z_bcthw).detach() + z_bcthw, codes_bthw

    def _learn(self, rows: Tensor, one_hot: Tensor) -> None:
        size = len(self.embeddings)
        self.counts.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
        self.sums.mul_(0.99).add_(one_hot.t() @ rows, alpha=0.01)
        total = self.counts.sum()
        weights = (self.counts + 1e-7) / (total + size * 1e-7) * total
        self.embeddings = self.sums / weights.unsqueeze(1)
        copies = -(-size // len(rows))
        tiled = rows if copies == 1 else rows.repeat(copies, 1) + 1e-3 * torch.randn_like(rows.repeat(copies, 1))
        offered = tiled[torch.randperm(len(tiled), device=rows.device)][:size]
        used = (self.counts >= 1).to(rows).view(size, 1)
        self.embeddings = self.embeddings * used + offered * (1 - used)


def run(
    parser: argparse.ArgumentParser,
    works: Callable[[argparse.Namespace], Mapping[str, Callable[[], Any]]],
    compare: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
    """The rest of a benchmark's `main`: the options that all have, then the comparison, or the peak memory of one work.

    Args:
        parser: with the benchmark's own options.
        works: the contenders by name.
        compare: prints and returns all figures.
    """
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peaks as well")
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        contenders = works(options)
        with torch.no_grad():
            print(peak_bytes(contenders[options.peak], torch.device(options.device)))
        return
    figures = compare(options)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
