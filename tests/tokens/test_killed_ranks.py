"""Ranks of a real process group that are killed, and others that go on: the global sequence of codes is the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from tests.tokens.making import make_store
from tests.tokens.test_loader import expected, loader_of
from tests.waiting import PATIENCE
from vtok.tokens.store import TokenStore

CLIPS, BATCH, STEPS = 30, 12, 12
"""Three batches an epoch, the last one filled up; a batch divides by one to four ranks."""
SAVED = "state.json"


class Stage(NamedTuple):
    """Some ranks that train until one of them is killed, or to the end."""

    number: int
    world: int
    workers: int
    prefetch: int
    killed: int
    kill_at: int | None


def _train(rank: int, stage: Stage, folder: Path, tokens: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-{stage.number}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=stage.world)
    options = {"workers": (stage.workers + rank) % 3, "prefetch": stage.prefetch}
    loader = loader_of(TokenStore(tokens), BATCH, rank=rank, world=stage.world, last="pad", **options)
    with contextlib.suppress(FileNotFoundError):
        loader.load_state_dict(json.loads((folder / SAVED).read_text()))
    with (folder / f"{stage.number}-{rank}.jsonl").open("w") as log:
        for batch in itertools.islice(loader.forever(), STEPS - loader.step):
            log.write(json.dumps([loader.step - 1, batch.labels_b.tolist(), batch.valid_b.tolist()]) + "\n")
            log.flush()
            if (rank, loader.step) == (stage.killed, stage.kill_at):
                os.kill(os.getpid(), signal.SIGKILL)  # while its workers are ahead of it
            dist.barrier()
            if rank == 0 and loader.step % 2 == 0:
                (folder / "unfinished").write_text(json.dumps(loader.state_dict()))
                (folder / "unfinished").rename(folder / SAVED)
    loader.close()
    dist.destroy_process_group()


def _run(stage: Stage, folder: Path, tokens: Path) -> None:
    """Ends as a launcher ends it: when one rank is gone, the others are killed too."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once
    context.set_forkserver_preload(["torch.distributed", "torch.utils.data", "vtok.tokens.loader", "hypothesis"])
    ranks: list[Any] = [
        context.Process(target=_train, args=(rank, stage, folder, tokens)) for rank in range(stage.world)
    ]
    for process in ranks:
        process.start()
    try:
        if stage.kill_at is not None:
            ranks[stage.killed].join(PATIENCE)
            assert ranks[stage.killed].exitcode == -signal.SIGKILL
        else:
            for process in ranks:
                process.join(PATIENCE)
            assert [process.exitcode for process in ranks] == [0] * stage.world
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _handed_out(stage: Stage, folder: Path) -> dict[int, tuple[list[int], list[bool]]]:
    """The global batch of every step that all ranks of a stage noted."""
    logs = [
        {step: (labels, valid) for step, labels, valid in map(json.loads, path.read_text().splitlines())}
        for path in (folder / f"{stage.number}-{rank}.jsonl" for rank in range(stage.world))
    ]
    common = sorted(set.intersection(*map(set, logs)))
    shares = {step: [log[step] for log in logs] for step in common}
    return {step: tuple(list(itertools.chain(*field)) for field in zip(*shares[step], strict=True)) for step in common}


@pytest.mark.parametrize(
    ("seed", "worlds"),
    [(0, (4, 2, 3)), *(pytest.param(seed, None, marks=pytest.mark.soak) for seed in range(1, 6))],
)
def test_killed_ranks_and_others_that_go_on(seed: int, worlds: tuple[int, ...] | None, tmp_path: Path) -> None:
    """Kill -9 at a drawn step, twice; the next ones are fewer or more, with other workers and another prefetching."""
    draw = random.Random(seed)
    worlds = worlds or tuple(draw.choices([1, 2, 3, 4], k=3))
    tokens = make_store(tmp_path / "tokens", {"train": [13, 0, 17]})
    kill_at: list[int | None] = [draw.randint(3, 5), draw.randint(7, 10), None]
    sequence: dict[int, tuple[list[int], list[bool]]] = {}
    for number, world in enumerate(worlds):
        stage = Stage(number, world, draw.randrange(3), draw.randint(1, 4), draw.randrange(world), kill_at[number])
        _run(stage, tmp_path, tokens)
        found = _handed_out(stage, tmp_path)
        assert min(found) <= len(sequence) <= max(found), "it goes on where the state was saved"
        assert all(sequence[step] == batch for step, batch in found.items() if step in sequence), "what is done again"
        sequence |= found
    assert json.loads((tmp_path / SAVED).read_text())["step"] == STEPS
    assert [sequence[step][0] for step in range(STEPS)] == expected(CLIPS, 0, BATCH, "pad", range(STEPS))
    for epoch in range(4):
        shown = [pair for step in range(3 * epoch, 3 * epoch + 3) for pair in zip(*sequence[step], strict=True)]
        assert sorted(label for label, valid in shown if valid) == list(range(CLIPS)), "nothing is lost or repeated"
