"""Several ranks under DeepSpeed: options of the training, one signal for all, damaged parts, a rank that dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipelines.making import flip
from tests.trainers.making import losses
from tests.trainers.tiny_task import launch, train
from vtok.hardware import find_compiler

pytestmark = [
    pytest.mark.soak,
    pytest.mark.deepspeed,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built"),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


VARIANTS: dict[str, dict[str, Any]] = {
    "parts": {"zero_stage": 0, "accumulate": 2},
    "parts-1": {"zero_stage": 1, "accumulate": 2},
    "parts-2": {"zero_stage": 2, "accumulate": 4},
    "parts-3": {"zero_stage": 3, "accumulate": 2},
    "average-2": {"zero_stage": 2, "ema_decay": 0.9},
    "average-3": {"zero_stage": 3, "ema_decay": 0.9},
    "recomputed-3": {"zero_stage": 3, "checkpoint_activations": True},
    "bf16-1": {"zero_stage": 1, "precision": "bf16"},
    "bf16-3": {"zero_stage": 3, "precision": "bf16"},
    "fp16-0": {"zero_stage": 0, "precision": "fp16"},
    "fp16-1": {"zero_stage": 1, "precision": "fp16"},
    "fp16-2": {"zero_stage": 2, "precision": "fp16", "accumulate": 2},
}


def test_options_under_zero_equal_the_plain_engine(tmp_path: Path) -> None:
    """All in one launch of two ranks; then two of the runs are damaged or interrupted and go on in a second one."""
    interrupted = {"zero_stage": 1, "checkpoint_every": 100, "events": [{"step": 6, "rank": 1, "do": "sigterm"}]}
    runs = {**VARIANTS, "interrupted": interrupted}
    settings = [{"folder": str(tmp_path / name), "engine": "deepspeed", **options} for name, options in runs.items()]
    done = launch(settings, tmp_path / "runs.json")
    assert [process.returncode for process in done] == [130, 130], done[0].stderr + done[1].stderr
    for name, options in VARIANTS.items():
        other = {key: value for key, value in options.items() if key in ("ema_decay", "precision")}
        train(tmp_path / f"plain-{name}", **other)
        tolerance = 2e-2 if options.get("precision") else 3e-6
        assert_equal(tmp_path / name, tmp_path / f"plain-{name}", tolerance)
    assert sorted(p.name for p in (tmp_path / "interrupted" / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000007",
    ]

    # One bit of one rank's part is wrong: the checkpoint before is taken, by both ranks.
    damaged = tmp_path / "average-3"
    before = losses(damaged)
    part = next((damaged / "checkpoints" / "step-00000012").rglob("*rank_1*optim_states.pt"))
    flip(part)
    del interrupted["events"]
    again = [
        {"folder": str(damaged), "engine": "deepspeed", **VARIANTS["average-3"]},
        {"folder": str(tmp_path / "interrupted"), "engine": "deepspeed", **interrupted},
    ]
    done = launch(again, tmp_path / "again.json")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    assert f"step-00000012 is skipped: {part.relative_to(part.parents[2]).as_posix()} is damaged" in done[0].stderr
    assert "resumed at step 8" in done[0].stdout and "resumed at step 7" in done[0].stdout
    assert losses(damaged) == before, "the average goes on too: validation and losses are equal bit by bit"
    train(tmp_path / "plain")
    assert_equal(tmp_path / "interrupted", tmp_path / "plain", 3e-6)


def assert_equal(folder: Path, other: Path, tolerance: float) -> None:
    ours, theirs = losses(folder), losses(other)
    assert sorted(ours) == sorted(theirs) == list(range(1, 13))
    for step, row in theirs.items():
        assert ours[step] == pytest.approx(row, rel=tolerance, abs=tolerance), f"{folder.name}, step {step}"
    a, b = (torch.load(path / "weights.pt", weights_only=True) for path in (folder, other))
    assert all(float((a[key] - b[key]).abs().max()) <= tolerance for key in b if key != "seen"), folder.name


def test_the_other_rank_notices_that_one_died(tmp_path: Path) -> None:
    run = {"folder": str(tmp_path / "prior"), "engine": "deepspeed", "events": [{"step": 9, "rank": 1, "do": "die"}]}
    start = time.monotonic()
    first, second = launch([run], tmp_path / "runs.json")
    assert second.returncode == -9
    assert first.returncode == 1
    assert "error: another training process is gone" in first.stderr and "Traceback" not in first.stderr
    assert "goes on from the last checkpoint" in first.stderr
    assert time.monotonic() - start < 300, "well before the deadline of an exchange between ranks"
    assert max(losses(tmp_path / "prior")) == 9
