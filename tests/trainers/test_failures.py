"""What stops a training leaves checkpoints that are good to go on from, and says what it was."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from schemas.config.train import TrainConfig
from schemas.errors import VtokError
from tests.trainers.making import losses, prepare
from tests.trainers.tiny_task import TinyTask, launch, train
from trainers import checkpoint, loop, tokenizer
from trainers import engine as engine_module
from trainers.failures import _memory_hint, broken
from trainers.precision import LossScale
from vtok.hardware import find_compiler


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def saved(folder: Path) -> list[int]:
    return checkpoint.list_steps(folder)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return found


@pytest.mark.parametrize("validate_every", [12, 4])
def test_gradients_that_are_no_numbers_are_never_saved(tmp_path: Path, validate_every: int) -> None:
    """At a step that is saved (and validated): the run stops before, and goes on when the fault is gone."""
    folder, options = tmp_path / "prior", {"validate_every": validate_every, "ema_decay": 0.9}
    with pytest.raises(
        VtokError, match=r"the gradient norm \(gnorm\) is nan at step 8; the batch is in bad-ba"
    ) as caught:
        train(folder, **options, events=[{"step": 7, "rank": 0, "do": "nan-gradients"}])
    assert "the last checkpoint is of step 4" in caught.value.hint
    assert saved(folder) == [4] and max(losses(folder)) == 7
    assert not list((folder / "checkpoints").glob(".*"))
    assert load_file(folder / "bad-batch-step-00000008-rank0.safetensors")
    train(folder, **options)
    train(tmp_path / "whole", **options)
    assert losses(folder) == losses(tmp_path / "whole")
    ours, theirs = weights_of(folder), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_step_itself_is_not_taken(tmp_path: Path) -> None:
    task = train(tmp_path / "prior")
    before = [p.detach().clone() for p in task.model.parameters()]
    task.events = [{"step": 5, "rank": 0, "do": "nan-gradients"}]
    assert math.isnan(task.train_step(next(task.batches(5)), 5)["gnorm"])
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    task.train_step(next(task.batches(6)), 6)
    assert not any(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))


@pytest.mark.soak
@pytest.mark.deepspeed
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built")
def test_gradients_that_are_no_numbers_under_zero(tmp_path: Path) -> None:
    """On one of two ranks, under every stage: both stop before the step is saved, and both go on."""
    options = {"engine": "deepspeed", "validate_every": 4}
    runs = [{"folder": str(tmp_path / str(stage)), "zero_stage": stage, **options} for stage in range(4)]
    events = [{"step": 7, "rank": 1, "do": "nan-gradients"}]
    done = launch([{**run, "events": events} for run in runs], tmp_path / "runs.json")
    assert [process.returncode for process in done] == [1, 1], done[0].stderr + done[1].stderr
    for process in done:
        assert process.stderr.count("the gradient norm (gnorm) is") == 4, process.stderr
        assert "Traceback" not in process.stderr
    for stage in range(4):
        assert saved(tmp_path / str(stage)) == [4]
        assert len(list((tmp_path / str(stage)).glob("bad-batch-step-00000008-rank?.safetensors"))) == 2
    done = launch(runs, tmp_path / "again.json")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    assert done[0].stdout.count("resumed at step 4") == 4
    train(tmp_path / "plain", validate_every=4)
    wanted = losses(tmp_path / "plain")
    for stage in range(4):
        found = losses(tmp_path / str(stage))
        assert sorted(found) == sorted(wanted)
        assert all(found[step] == pytest.approx(row, rel=3e-6, abs=3e-6) for step, row in wanted.items()), stage


@pytest.mark.parametrize("name", ["loss", "d_loss", "d_gnorm", "anything"])
def test_every_value_of_a_step_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = TinyTask.train_step

    def step(self: TinyTask, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> dict[str, float]:
        values = {"d_loss": 1.0, **real(self, batch, number), "d_gnorm": 1.0, "anything": 0.5}
        return {**values, name: math.inf} if number == 7 else values

    monkeypatch.setattr(TinyTask, "train_step", step)
    with pytest.raises(VtokError, match=rf"{name}\)? is inf at step 8"):
        train(tmp_path / "prior", validate_every=12)
    assert saved(tmp_path / "prior") == [4]


def test_the_discriminators_gradients_count(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = prepare(inputs, tmp_path / "run", "tokenizer")
    real, calls = tokenizer.discriminator_loss, []

    def poisoned(*arguments: object, **options: object) -> object:
        loss, scalars = real(*arguments, **options)  # type: ignore[arg-type]
        calls.append(1)
        return (loss + torch.sqrt(0 * loss), scalars) if len(calls) == 3 else (loss, scalars)

    monkeypatch.setattr(tokenizer, "discriminator_loss", poisoned)
    with pytest.raises(VtokError, match=r"discriminators' gradient norm \(d_gnorm\) is nan at step 8"):
        tokenizer.train_tokenizer(recipe)
    assert saved(recipe.folder("tokenizer")) == [4]


def test_fp16_skips_steps_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "check_precision", lambda precision: None)
    folder = tmp_path / "prior"
    train(folder, precision="fp16", events=[{"step": 7, "rank": 0, "do": "nan-gradients"}])
    rows = losses(folder)
    assert sorted(rows) == list(range(1, 13)) and rows[8]["gnorm"] is None and rows[9]["gnorm"] > 0
    always = [{"step": step, "rank": 0, "do": "nan-gradients"} for step in range(20)]
    with pytest.raises(VtokError, match=r"gradient norm \(gnorm\) is nan at step 17"):  # 2^16 was halved 16 times
        train(tmp_path / "other", steps=20, precision="fp16", events=always)


def test_what_a_skipped_step_excuses() -> None:
    scale = LossScale("fp16", initial=2.0)
    scale.update(True)
    assert broken({"loss": 1.0, "gnorm": math.inf}, [scale]) is None
    assert broken({"loss": math.inf, "gnorm": math.inf}, [scale]) == "loss"
    scale.update(True)
    assert broken({"loss": 1.0, "gnorm": math.inf}, [scale]) == "gnorm"
    scale.update(False)
    assert not scale.exhausted
    assert broken({"gnorm": math.nan}, [LossScale("bf16")]) == "gnorm"


def test_a_validation_that_is_no_number_is_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = {3: 5.0, 6: math.nan, 9: -math.inf, 12: 6.0, 15: 7.0}
    monkeypatch.setattr(TinyTask, "validate", lambda self, step: {"val": scores[step]})
    folder = tmp_path / "prior"
    train(folder, steps=15, validate_every=3, checkpoint_every=3)
    assert saved(folder) == [3, 12, 15]
    assert checkpoint.best_score(folder) == 5.0
    errors = capfd.readouterr().err
    assert "WARN prior step 6: val is nan" in errors and "WARN prior step 9: val is -inf" in errors
    assert losses(folder)[6]["val"] is None and losses(folder)[3]["val"] == 5.0


def test_scores_on_the_disk_that_are_no_numbers_are_ignored(tmp_path: Path) -> None:
    train(tmp_path, checkpoint_every=4, validate_every=4, keep_checkpoints=9)
    for step, score in ((4, "NaN"), (8, "-Infinity")):
        path = tmp_path / "checkpoints" / f"step-{step:08d}" / "state.json"
        state = json.loads(path.read_text())
        del state["sha256"]
        path.write_text(json.dumps({**state, "score": "here"}).replace('"here"', score))
    assert checkpoint.best_score(tmp_path) == losses(tmp_path)[12]["val"]
    assert checkpoint._best_step(tmp_path) == 12


def test_out_of_memory_proposes_only_what_the_run_takes(tmp_path: Path) -> None:
    """Each proposal, taken, is a config; what is set already or cannot be set is left out."""

    def hint(section: str, world: int = 1, **options: Any) -> str:
        config = TrainConfig(**options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WORLD_SIZE", str(world))
            text = _memory_hint(config, section)
        for name, value in re.findall(r"(\w+)=(\w+) \(now", text):
            changed = TrainConfig(**{**options, name: yaml.safe_load(value)})
            assert changed.batch_size % (changed.accumulate * world) == 0
        return text

    assert "accumulate" not in hint("prior.train", batch_size=8, accumulate=8)
    assert "accumulate=6 (now 2)" not in hint("prior.train", batch_size=6, accumulate=2, world=3)
    assert "accumulate=3 (now 2)" in hint("prior.train", batch_size=6, accumulate=2)
    one = hint("prior.train", batch_size=1, checkpoint_activations=True, precision="bf16")
    assert "=" not in one and "smaller" in one
    two = hint("prior.train", world=2, batch_size=2, accumulate=1)
    assert "zero_stage=3 (now 1)" in two and "accumulate" not in two and "batch_size" not in two
    assert "zero_stage=2 (now 1)" in hint("prior.train", world=2, precision="fp16")
    free, anew = hint("tokenizer.train", batch_size=8).split("; the same command then goes on")
    assert "checkpoint_activations=true" in free and "accumulate" not in free, "a tokenizer's statistics are of a part"
    assert "another `out`" in anew and "accumulate=2" in anew and "batch_size (now 8)" in anew


def test_out_of_memory_before_the_first_step_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: TinyTask, batch: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(TinyTask, "timing_step", full)
    monkeypatch.setattr(loop, "choose_threads", lambda step: step())
    with pytest.raises(VtokError, match="the GPU has no memory left"):
        train(tmp_path / "prior", threads="auto")
