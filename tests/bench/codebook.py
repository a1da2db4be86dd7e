"""Nearest code: ours against the originals' method (all distances and one-hot matrices) and the bare product.

Same vectors, same codes, same threads; medians of interleaved rounds. Peak memory comes from processes of their own.
Codes must equal the float64 argmin wherever the two nearest codes differ by more than float32 can get wrong.

    python tests/bench/codebook.py --threads 1
    python tests/bench/codebook.py --device cuda
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.bench.contenders import OneHotCodebook, interleaved, ratio, run, table  # noqa: E402
from vtok.tokenizers.codebook import Codebook, GeneratorDraws  # noqa: E402

GRID = (4, 16, 16)
"""Codes of a clip of 16 frames of 128 px."""


def inputs(options: argparse.Namespace) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (b, c, 4, 16, 16) and the state of a codebook in use."""
    draws = torch.Generator().manual_seed(0)
    clips = max(1, options.vectors // (GRID[0] * GRID[1] * GRID[2]))
    z = torch.randn(clips, options.dim, *GRID, generator=draws)
    embeddings = torch.randn(options.codes, options.dim, generator=draws)
    state = {"embeddings": embeddings, "N": torch.full((options.codes,), 2.0), "z_avg": 2 * embeddings}
    return z.to(options.device), {name: value.to(options.device) for name, value in state.items()}


def works(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The contenders; those that learn go on learning from call to call."""
    z, state = inputs(options)
    ours = Codebook(options.codes, options.dim)
    learning = Codebook(options.codes, options.dim)
    for codebook in (ours, learning):
        codebook.load_state_dict(state)
        codebook.to(options.device)
    ours.eval(), learning.train()
    draws = GeneratorDraws(torch.Generator(options.device).manual_seed(0))
    seed, seed_learning = OneHotCodebook(state, training=False), OneHotCodebook(state, training=True)
    rows = z.movedim(1, -1).flatten(0, -2).contiguous()
    step = min(len(rows), 1024)
    out = torch.empty(step, options.codes, device=options.device)
    transposed = state["embeddings"].t()

    def bare() -> None:
        for part in rows.split(step):
            torch.mm(part, transposed, out=out[: len(part)])

    def bare_whole() -> Tensor:
        return rows @ transposed

    flat = z.flatten(2).transpose(1, 2)
    return {
        "seed, training": lambda: seed_learning(z),
        "ours, training": lambda: learning(z, draws),
        "seed, inference": lambda: seed(z)[1],
        "ours, inference": lambda: ours.nearest(flat),
        "bare product": bare if options.device == "cpu" else bare_whole,
    }


def agreement(options: argparse.Namespace) -> dict[str, int]:
    """Codes compared with the float64 argmin, by whether float32 can be sure of them."""
    z, state = inputs(options)
    ours = Codebook(options.codes, options.dim).to(options.device).eval()
    ours.load_state_dict(state)
    rows = z.movedim(1, -1).flatten(0, -2)
    codes = ours.nearest(z.flatten(2).transpose(1, 2)).flatten()
    exact = state["embeddings"].double()
    longest = float(exact.norm(dim=1).max())
    unit, counts = 2.0**-24, {"vectors": len(rows), "sure": 0, "sure_equal": 0, "equal": 0}
    for part, found in zip(rows.split(1024), codes.split(1024), strict=True):
        part64 = part.double()
        distances = exact.square().sum(1) - 2 * part64 @ exact.t()
        two = distances.topk(2, largest=False)
        # dim products and sums of each of two distances, rounded each time (Higham, Accuracy and Stability, 3.1).
        error = 2 * (options.dim + 4) * unit * (2 * part64.norm(dim=1) * longest + longest**2)
        sure = two.values[:, 1] - two.values[:, 0] > error
        equal = two.indices[:, 0] == found
        counts["sure"] += int(sure.sum())
        counts["sure_equal"] += int((sure & equal).sum())
        counts["equal"] += int(equal.sum())
    return counts


def _peak(name: str, options: argparse.Namespace) -> int:
    arguments = [f"--{key}={getattr(options, key)}" for key in ("vectors", "codes", "dim", "threads", "device")]
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, f"--peak={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns all figures."""
    with torch.no_grad():
        contenders = works(options)
        found = interleaved(contenders, options.rounds, torch.device(options.device))
    print(f"{options.vectors} vectors x {options.codes} codes of {options.dim}, {options.device}, ", end="")
    print(f"{options.threads} thread(s), {options.rounds} rounds")
    print(table(found, ["bare product"]))
    figures: dict[str, Any] = {"seconds": found}
    for kind in ("training", "inference"):
        gain, share = ratio(found, f"ours, {kind}", f"seed, {kind}"), ratio(found, f"ours, {kind}", "bare product")
        print(f"{kind}: {gain:.2f} times the seed's method, {share:.0%} of the bare product")
        figures[kind] = {"gain": gain, "share": share}
    del contenders
    if options.memory:
        peaks = {
            f"{who}, {kind}": _peak(f"{who}, {kind}", options)
            for who in ("seed", "ours")
            for kind in figures
            if kind != "seconds"
        }
        for name, value in peaks.items():
            print(f"peak memory {name}: {value / 2**20:.0f} MiB")
        figures["peak_bytes"] = peaks
    figures["agreement"] = agreement(options)
    print(
        "codes against float64: {equal} of {vectors} equal; {sure_equal} of {sure} sure ones".format(
            **figures["agreement"]
        )
    )
    if figures["agreement"]["sure"] != figures["agreement"]["sure_equal"]:
        raise SystemExit("a code differs where float32 must be right")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=16_384, help="rounded down to whole clips of 1024")
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    run(parser, works, compare)


if __name__ == "__main__":
    main()
