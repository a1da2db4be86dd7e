"""Training beside somebody who keeps a core busy: how much of its quiet speed is left.

    python -m tests.bench.contention [--steps 20] [--rounds 3] [--out contention.json]

The demo's tokenizer, batches of drawn numbers, plain engine, fp32 on the CPU; one process a contender, which differ in
their threads and in how these wait for each other (`vtok/openmp.py`): spinning is what OpenMP does if nobody says
otherwise. Only one contender runs at a time. In every round each takes some steps in quiet and as many beside a process
that does nothing but count; the figures are the medians of the seconds and of the rounds' ratios quiet / busy. The
losses of contenders with equal threads are compared: waiting changes no bit. Run it on a machine that is idle: others'
work counts as quiet here. The load before the first round is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

from tests.pipelines.making import REPOSITORY
from vtok.openmp import PASSIVE

_BUSY = "while True: pass"


class Contender(NamedTuple):
    """How a training runs.

    Attributes:
        name: shown.
        threads: of torch; 0: all cores.
        environment: what OpenMP reads.
    """

    name: str
    threads: int
    environment: dict[str, str]


CONTENDERS = (
    Contender("all cores, sleeping", 0, PASSIVE),
    Contender("1 thread", 1, PASSIVE),
    Contender("all cores, spinning", 0, {"OMP_WAIT_POLICY": "ACTIVE"}),
)


def train(threads: int) -> None:
    """Takes as many steps as each line of standard input says, and prints the seconds and the last loss."""
    import torch

    from trainers.tokenizer import TokenizerTask, TrainBatch
    from vtok.cli.common import read_recipe
    from vtok.hardware import cpu_count

    recipe = read_recipe("demo", ["out=" + json.dumps(tempfile.gettempdir())])
    torch.set_num_threads(threads or cpu_count())
    task = TokenizerTask(recipe, Path(tempfile.gettempdir()))
    task.build("plain")
    data, size = recipe.data, recipe.tokenizer.train.batch_size
    shape = (size, 3, data.num_frames, data.resolution, data.resolution)
    step = 0
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            video_bcthw = torch.rand(shape, generator=torch.Generator().manual_seed(step)) - 0.5
            loss = task.train_step(TrainBatch(video_bcthw, []), step)["loss"]
            step += 1
        print(time.perf_counter() - begun, loss, flush=True)


class Training:
    """A contender's process."""

    def __init__(self, contender: Contender) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in (*PASSIVE, "OMP_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.contention", "--train", str(contender.threads)],
            cwd=REPOSITORY,
            env={**clean, **contender.environment, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def steps(self, count: int) -> tuple[float, float]:
        """Seconds of some steps, and the last one's loss."""
        stdin, stdout = self._streams()
        stdin.write(f"{count}\n")
        stdin.flush()
        seconds, loss = map(float, stdout.readline().split())
        return seconds, loss

    def end(self) -> None:
        self._streams()[0].close()
        self._process.wait()

    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def measure(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds in quiet and beside a busy core, and the median ratio, by contender."""
    trainings = [(contender, Training(contender)) for contender in CONTENDERS]
    times: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in CONTENDERS}
    for _, training in trainings:
        training.steps(3)  # warms up
    for number in range(rounds):
        losses: dict[int, set[float]] = {}
        for contender, training in trainings:
            quiet, _ = training.steps(steps)
            with subprocess.Popen([sys.executable, "-c", _BUSY]) as busy:
                beside, loss = training.steps(steps)
                busy.kill()
            times[contender.name].append((quiet, beside))
            losses.setdefault(contender.threads, set()).add(loss)
        if any(len(found) > 1 for found in losses.values()):
            raise SystemExit(f"round {number}: equal threads, other losses: {losses}")
    for _, training in trainings:
        training.end()
    return {
        name: {
            "quiet_seconds": statistics.median(quiet for quiet, _ in found),
            "busy_seconds": statistics.median(busy for _, busy in found),
            "left": statistics.median(quiet / busy for quiet, busy in found),
        }
        for name, found in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.steps} steps")
    results = measure(options.steps, options.rounds)
    for name, row in results.items():
        print(f"  {name:<22}{row['quiet_seconds']:8.1f} s quiet{row['busy_seconds']:8.1f} s busy{row['left']:7.2f}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
