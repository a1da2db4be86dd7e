"""A training step of the VQGAN against a plain implementation of how TATS trains it (`seed_vqgan.py`).

    python -m tests.bench.tokenizer_step [--threads 1] [--out tokenizer_step.json]

The same weights, the same clips, the same threads, fp32 on the CPU. Contenders: vtok as it is, vtok with `parity`
(two passes of the generator a batch, as the seed) and the seed's method (one-hot codes, two passes). Rounds are
interleaved; the figures are the medians of the rounds' seconds and of their ratios, in the two phases of a run: before
the discriminators join (the seed runs them all the same) and after. Peak memory is the resident set of a process of its
own that takes two steps with the discriminators, less what it held before the first. Losses of the first steps are
compared, so nobody is fast by doing something else.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from schemas.config import Recipe
from tests.bench.contenders import peak_bytes
from tests.bench.seed_vqgan import SeedTrainer
from trainers.tokenizer import TokenizerTask, TrainBatch

Step = Callable[[int], float]
CONTENDERS = ("vtok", "vtok, parity", "seed")
PHASES = {"before the discriminators": 10**9, "with the discriminators": 0}


def make_task(options: argparse.Namespace, start: int, *, parity: bool) -> TokenizerTask:
    """A trainer without shards, its codebook in use and without restarts (as in TATS's own recipes)."""
    optim = {"lr": 3e-5, "betas": [0.5, 0.9], "optimizer": "adam", "weight_decay": 0.0, "clip_grad_norm": 1.0}
    tree = {
        "name": "bench",
        "out": tempfile.gettempdir(),
        "data": {"root": "videos", "resolution": options.size, "num_frames": options.frames},
        "tokenizer": {
            "parity": parity,
            "model": {
                "n_codes": options.codes,
                "n_hiddens": options.hiddens,
                "downsample": [4, 8, 8],
                "random_restart": False,
            },
            "discriminators": {"channels": options.discriminator_channels},
            "loss": {"discriminator_start": start},
            "train": {"steps": 10**6, "batch_size": options.batch, "generator": optim, "discriminator": optim},
        },
    }
    task = TokenizerTask(Recipe.model_validate(tree), Path(tempfile.gettempdir()))
    task.build("plain")
    task.model.codebook.initialized.fill_(True)
    task.model.codebook.N.fill_(1)
    return task


def make_step(name: str, options: argparse.Namespace, start: int) -> Step:
    """One training step of a contender on the clips of a step; returns the generator's loss."""
    task = make_task(options, start, parity=name == "vtok, parity")

    def batch(step: int) -> TrainBatch:
        shape = (options.batch, 3, options.frames, options.size, options.size)
        return TrainBatch(torch.rand(shape, generator=torch.Generator().manual_seed(step)) - 0.5, [])

    if name != "seed":
        return lambda step: task.train_step(batch(step), step)["loss"]
    assert task.discriminators is not None
    model, discriminators = copy.deepcopy(task.model), copy.deepcopy(task.discriminators)
    seed = SeedTrainer(model, discriminators, task.config.loss, lr=3e-5, clip=1.0)

    def step_once(step: int) -> float:
        clips = batch(step).video_bcthw
        frames = (task._frame_index(clips, step), task._frame_index(clips, step, "again"))
        return seed.step(clips, frames, step)[0]

    return step_once


def peak_mb(name: str, options: argparse.Namespace, start: int) -> float:
    """Peak resident memory of two steps, MB, over what was there before the first."""
    step = make_step(name, options, start)
    return peak_bytes(lambda: [step(number) for number in range(2)], torch.device("cpu")) / 1e6


def measure(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Median seconds, ratio to the seed and peak memory, by phase and contender."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for phase, start in PHASES.items():
        steps = {name: make_step(name, options, start) for name in CONTENDERS}
        times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        losses: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for number in range(options.rounds + 1):
            for name, step in steps.items():
                begin = time.perf_counter()
                losses[name].append(step(number))
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - begin)
        for name in CONTENDERS:  # the first step starts from equal weights
            if abs(losses[name][0] - losses["seed"][0]) > 1e-3 * abs(losses["seed"][0]):
                raise SystemExit(f"{phase}: {name} has loss {losses[name][0]}, the seed {losses['seed'][0]}")
        results[phase] = {
            name: {
                "seconds": statistics.median(times[name]),
                "times_seed": statistics.median(b / a for a, b in zip(times[name], times["seed"], strict=True)),
            }
            for name in CONTENDERS
        }
        if start:
            continue
        for name in CONTENDERS:
            command = [sys.executable, "-m", "tests.bench.tokenizer_step", *sys.argv[1:], "--peak", name, str(start)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[phase][name]["peak_mb"] = float(done.stdout)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--hiddens", type=int, default=16)
    parser.add_argument("--discriminator-channels", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_mb(options.peak[0], options, int(options.peak[1])))
        return
    results = measure(options)
    for phase, rows in results.items():
        print(f"{phase}: {options.batch} x {options.frames} x {options.size}^2, {options.threads} thread(s)")
        for name, row in rows.items():
            peak = f"  peak {row['peak_mb']:7.0f} MB" if "peak_mb" in row else ""
            print(f"  {name:<14}{row['seconds']:8.3f} s  {row['times_seed']:5.2f}x the seed{peak}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
