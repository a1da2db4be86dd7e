"""Accumulation, precision, averaged weights, best checkpoints, logs and failures: plain engine.

`test_ranks_together.py` has the same under DeepSpeed."""

from __future__ import annotations

import json
import math
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from schemas.config.train import OptimConfig, TrainConfig
from schemas.errors import IntegrityError, UsageError, VtokError
from tests.trainers.making import losses
from tests.trainers.tiny_task import Tiny, TinyTask, launch, train
from trainers import loop, reshard
from trainers.engine import PlainEngine, make_engine
from trainers.optim import learning_rate, make_optimizer
from trainers.precision import LossScale, check_precision
from trainers.task import micro_batches, tensors_of


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Named(NamedTuple):
    codes: torch.Tensor
    labels: torch.Tensor | None


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return found


def forget(folder: Path, steps: list[int]) -> None:
    """Removes checkpoints."""
    import shutil

    for step in steps:
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")


def test_parts_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    whole = losses_of(tmp_path / "1")
    for parts in (2, 8):
        assert losses_of(tmp_path / str(parts), accumulate=parts) == pytest.approx(whole, rel=2e-6)
    with pytest.raises(ValidationError, match="does not divide into 3 parts"):
        TrainConfig(batch_size=8, accumulate=3)


def losses_of(folder: Path, **options: object) -> list[float]:
    train(folder, **options)
    return [row["loss"] for row in losses(folder).values()]


def test_a_training_that_ignores_parts_is_refused() -> None:
    model = Tiny(0.0)
    config = TrainConfig(batch_size=8, accumulate=2)
    engine = make_engine("plain", model, [{"params": list(model.parameters())}], OptimConfig(), config)
    engine.backward(engine(torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, 5, dtype=torch.long)))
    with pytest.raises(VtokError, match=r"train.accumulate is 2, and a step of this training goes back 1 times"):
        engine.step(1e-3)


def test_ranks_and_parts_must_divide_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="a batch of 8 does not divide by 3 ranks x 1 parts"):
        train(tmp_path / "prior")


def test_batches_are_cut_whatever_they_are() -> None:
    codes = torch.arange(8).view(4, 2)
    assert [part.tolist() for part in micro_batches(codes, 2)] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    first, second = micro_batches((codes, None), 2)
    assert torch.equal(second[0], codes[2:]) and first[1] is None
    parts = micro_batches({"a": codes, "b": [codes]}, 4)
    assert len(parts) == 4 and torch.equal(parts[3]["b"][0], codes[3:])
    named = Named(codes, None)
    assert isinstance(micro_batches(named, 2)[1], Named)
    assert set(tensors_of(named)) == {"batch.codes"}
    assert set(tensors_of((codes, None, {"x": codes}))) == {"batch.0", "batch.2.x"}


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    plain = losses_of(tmp_path / "plain", dropout=0.2)
    assert losses_of(tmp_path / "recomputed", dropout=0.2, checkpoint_activations=True) == plain


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    full = losses_of(tmp_path / "fp32", steps=30)
    half = losses_of(tmp_path / "bf16", steps=30, precision="bf16")
    assert half != full
    assert half == pytest.approx(full, abs=0.03)
    assert all(value.dtype == torch.float32 for value in weights_of(tmp_path / "bf16").values())


def test_fp16_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="fp16 needs a CUDA GPU") as caught:
        check_precision("fp16")
    assert "bf16" in caught.value.hint
    check_precision("bf16")
    with pytest.raises(ValidationError, match="ZeRO stages 0 to 2"):
        TrainConfig(precision="fp16", zero_stage=3)


def test_bf16_needs_a_gpu_that_does_not_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that a V100 supports bf16, unless it is asked for more than emulation."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(UsageError, match="this GPU does not compute in bf16") as caught:
        check_precision("bf16")
    assert "precision=fp16" in caught.value.hint
    check_precision("fp16")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    check_precision("bf16")


def test_the_loss_scale_falls_on_overflow_and_rises_again() -> None:
    scale = LossScale("fp16", initial=8.0)
    scale.growth_interval = 2
    seen = []
    for overflow in (False, True, False, False, False):
        scale.update(overflow)
        seen.append(scale.value)
    assert seen == [8.0, 4.0, 4.0, 8.0, 8.0]
    again = LossScale("fp16")
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict()
    still = LossScale("bf16")
    still.update(True)
    assert still.value == 1.0


def test_a_scaled_loss_makes_the_same_step_and_an_overflow_none() -> None:
    def engine(scale: LossScale) -> PlainEngine:
        torch.manual_seed(0)
        model, config = Tiny(0.0), OptimConfig(clip_grad_norm=0.1)
        return PlainEngine(model, make_optimizer([{"params": list(model.parameters())}], config), config, scale=scale)

    one, scaled = engine(LossScale("fp32")), engine(LossScale("fp16"))
    batch = (torch.ones(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.long))
    norms = []
    for item in (one, scaled):
        item.backward(item(*batch))
        norms.append(item.step(1e-3))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    for a, b in zip(one.module.parameters(), scaled.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    before = [p.detach().clone() for p in scaled.module.parameters()]
    scaled.backward(scaled(*batch) * math.inf)
    assert not math.isfinite(scaled.step(1e-3))
    assert all(torch.equal(a, b) for a, b in zip(before, scaled.module.parameters(), strict=True))
    assert scaled.scale.value == 2.0**15


def test_averaged_weights_are_validated_exported_and_resumed(tmp_path: Path) -> None:
    plain, average = tmp_path / "plain", tmp_path / "average"
    train(plain, steps=12)
    task = train(average, steps=12, ema_decay=0.9)
    ours, theirs = losses(average), losses(plain)
    assert all(ours[step]["loss"] == theirs[step]["loss"] for step in ours), "training itself is the same"
    assert ours[12]["val"] != theirs[12]["val"]
    with torch.no_grad():
        assert task.validate(12)["val"] == ours[12]["val"], "what was validated last is what is exported"
    shadow = by_hand(tmp_path)
    exported = weights_of(average)
    assert all(torch.allclose(exported[key], value, atol=1e-6) for key, value in shadow.items())
    forget(average, [12])
    train(average, steps=12, ema_decay=0.9)
    assert losses(average) == ours
    again = weights_of(average)
    assert all(torch.equal(exported[key], again[key]) for key in again)


def by_hand(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The average of the weights after each of 12 steps, from 12 runs' checkpoints."""
    folder = tmp_path / "all"
    train(folder, steps=12, checkpoint_every=1, keep_checkpoints=12)
    torch.manual_seed(1)
    shadow = {name: p.detach().clone() for name, p in Tiny(0.0).named_parameters()}
    for step in range(12):
        saved = torch.load(folder / "checkpoints" / f"step-{step + 1:08d}" / "prior" / "plain.pt", weights_only=True)
        decay = min(0.9, (1 + step) / (10 + step))
        shadow = {name: decay * value + (1 - decay) * saved["module"][name] for name, value in shadow.items()}
    return shadow


def test_resume_is_exact_with_dropout_and_the_tasks_state(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, dropout=0.3)
    train(cut, dropout=0.3)
    forget(cut, [12])
    task = train(cut, dropout=0.3)
    assert losses(cut) == losses(whole)
    assert task.loaded == {"position": 8}
    assert all(torch.equal(a, b) for a, b in zip(weights_of(cut).values(), weights_of(whole).values(), strict=True))


def test_killed_at_any_step_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    options = {"steps": 30, "checkpoint_every": 3, "dropout": 0.2, "ema_decay": 0.9}
    train(tmp_path / "whole", **options)
    cut = tmp_path / "cut"
    for step in sorted(random.Random(2).sample(range(1, 30), 2)):
        dies = {"folder": str(cut), **options, "events": [{"step": step, "rank": 0, "do": "die"}]}
        (killed,) = launch([dies], tmp_path / "run.json", ranks=1)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(cut, **options)
    assert losses(cut) == losses(tmp_path / "whole")
    ours, theirs = weights_of(cut), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_best_checkpoint_is_kept_besides_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {3: 5.0, 6: 1.0, 9: 2.0, 12: 3.0, 15: 4.0, 18: 0.5}
    monkeypatch.setattr(TinyTask, "validate", lambda self, step: {"val": scores[step]})
    folder = tmp_path / "prior"

    def kept() -> list[int]:
        return sorted(int(p.name[5:]) for p in (folder / "checkpoints").iterdir())

    train(folder, steps=15, validate_every=3, checkpoint_every=5)
    assert kept() == [6, 10, 15]
    train(folder, steps=18, validate_every=3, checkpoint_every=100)
    assert kept() == [15, 18], "a better one replaces the best"
    other = tmp_path / "other"
    train(other, steps=15, validate_every=3, checkpoint_every=5, keep_best=False)
    assert sorted(p.name for p in (other / "checkpoints").iterdir()) == ["step-00000010", "step-00000015"]


def test_a_bad_batch_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    with pytest.raises(VtokError, match=r"the loss is nan at step 7; the batch is in bad-batch-step-00000007-rank0"):
        train(folder, events=[{"step": 6, "rank": 0, "do": "nan"}])
    codes, targets = next(TinyTask(TrainConfig(batch_size=8), dropout=0.0, events=[]).batches(6))
    saved = load_file(folder / "bad-batch-step-00000007-rank0.safetensors")
    assert torch.equal(saved["batch.0"], codes) and torch.equal(saved["batch.1"], targets)


def test_out_of_memory_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(VtokError, match="the GPU has no memory left") as caught:
        train(tmp_path / "prior", accumulate=2, events=[{"step": 2, "rank": 0, "do": "oom"}])
    assert "prior.train.accumulate=4 (now 2)" in caught.value.hint
    assert "prior.train.checkpoint_activations=true (now false)" in caught.value.hint
    size = sum(p.numel() for p in Tiny(0.0).parameters()) * 4
    rows = [line.split() for line in caught.value.what.splitlines()[1:]]
    assert [row[0] for row in rows] == ["weights", "gradients", "optimiser"]
    assert f"{size / 1024:.1f}" == rows[0][1] and f"{2 * size / 1024:.1f}" == rows[2][-2]


def test_threads_are_timed_on_a_part_and_on_the_cpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[int, ...]] = []
    monkeypatch.setattr(TinyTask, "timing_step", lambda self, batch: timed.append(tuple(batch[0].shape)))
    monkeypatch.setattr(loop, "choose_threads", lambda step: step() or 1)
    train(tmp_path / "prior", threads="auto", accumulate=4, steps=2)
    assert timed == [(2, 5)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(loop, "cpu_count", lambda: 6)
    config = TrainConfig(batch_size=8)
    assert loop._choose_threads(TinyTask(config), 0, config) == 6
    assert timed == [(2, 5)]


def test_ranks_share_the_cores_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun says how many there are in one variable, DeepSpeed's launcher, which `--hostfile` uses, in another."""
    config = TrainConfig(batch_size=8)
    monkeypatch.setattr(loop, "cpu_count", lambda: 12)
    monkeypatch.setenv("WORLD_SIZE", "8")
    for name, threads in (("LOCAL_WORLD_SIZE", 3), ("LOCAL_SIZE", 3), ("NOTHING", 12)):
        for other in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, "4")
        assert loop._choose_threads(TinyTask(config), 0, config) == threads


def test_the_recipe_says_which_engine_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not the run's settings; and where DeepSpeed cannot start, what it has written is not lost."""
    folder = tmp_path / "prior"
    train(folder)
    whole = losses(folder)
    forget(folder, [12])
    monkeypatch.setattr("trainers.engine.find_compiler", lambda: None)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: False)
    for engine in ("plain", "deepspeed"):
        (folder / "_settings.json").write_text('{"engine": "deepspeed", "threads": 1}')
        capfd.readouterr()
        train(folder, engine=engine)
        said = capfd.readouterr()
        assert "resumed at step 8" in said.out and "engine plain" in said.out
        assert ("plain torch instead of DeepSpeed" in said.err) == (engine == "deepspeed")
        assert losses(folder) == whole
        assert json.loads((folder / "_settings.json").read_text()) == {"engine": "plain", "threads": 1}
        forget(folder, [12])


def test_parts_that_cannot_be_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setitem(sys.modules, "deepspeed.checkpoint", None)
    with pytest.raises(IntegrityError, match="cannot be converted for this engine, ZeRO stage and number") as caught:
        reshard._convert(tmp_path / "state", tmp_path / "whole")
    assert "layouts" in caught.value.hint


def test_learning_rate_rules_of_the_published_recipes() -> None:
    vqgan = OptimConfig(lr=3e-5, lr_rule="tats_vqgan")  # accumulate 6, 8 GPUs, 2 clips each
    assert learning_rate(vqgan, 0, 10, batch_size=6 * 8 * 2) == pytest.approx(6 * (8 / 8) * (2 / 4) * 3e-5)
    gpt = OptimConfig(lr=4.5e-6, lr_rule="tats_gpt")  # 8 GPUs, 3 clips each
    assert learning_rate(gpt, 0, 10, batch_size=24) == pytest.approx(1.08e-4)
    assert learning_rate(OptimConfig(lr=1.08e-5), 0, 10, batch_size=48) == 1.08e-5


def test_a_plan_does_not_depend_on_the_cadence() -> None:
    names = set(TrainConfig.model_fields)
    assert names >= loop.CADENCE
    assert names - loop.CADENCE == {"steps", "batch_size", "accumulate", "precision", "ema_decay"}


def test_a_slow_start_on_a_gpu_says_what_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    slow, fast = TrainConfig(), TrainConfig(precision="bf16", compile=True)
    assert loop.gpu_hint("prior", slow, fresh=True) is None, "there is no GPU"
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        said = loop.gpu_hint("prior", slow, fresh=True)
        assert said is not None
        assert "prior.train.precision=bf16 prior.train.compile=true; `vtok train prior RECIPE --calibrate`" in said
        resumed = loop.gpu_hint("prior", slow, fresh=False)
        assert resumed is not None and "precision" not in resumed, "that belongs to the run from its first step on"
        assert loop.gpu_hint("prior", fast, fresh=True) is None
        assert loop.gpu_hint("tokenizer", slow, fresh=True) is None
    monkeypatch.setattr(loop, "gpu_hint", lambda name, config, fresh: f"{name}: what is faster ({fresh})")
    train(tmp_path / "prior", steps=2)
    assert capfd.readouterr().err.count("prior: what is faster (True)") == 1


def test_settings_hold_the_engine(tmp_path: Path) -> None:
    train(tmp_path / "prior", steps=2)
    assert json.loads((tmp_path / "prior" / "_settings.json").read_text()) == {"engine": "plain", "threads": 1}
