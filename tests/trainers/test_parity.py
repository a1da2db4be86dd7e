"""A batch of the trainer: with `parity` the original's two passes, by default one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from schemas.config import Recipe
from tests.bench.seed_vqgan import SeedTrainer
from tests.trainers.making import OPTIM
from trainers.tokenizer import TokenizerTask, TrainBatch

START, STEPS = 2, 4


def _task(tmp_path: Path, losses: dict[str, Any] | None = None, **settings: Any) -> TokenizerTask:
    """A small VQGAN with a codebook in use, and no shards."""
    tree = {
        "name": "step",
        "out": str(tmp_path),
        "data": {"root": "videos", "resolution": 16, "num_frames": 4},
        "tokenizer": {
            "model": {
                "embedding_dim": 4,
                "n_codes": 24,
                "n_hiddens": 4,
                "downsample": [2, 4, 4],
                "random_restart": False,
                **settings.pop("model", {}),
            },
            "discriminators": {"channels": 4, "layers": 2},
            "loss": {"discriminator_start": START, "gan_feature_weight": 2.0, **(losses or {})},
            "train": {
                "steps": STEPS,
                "batch_size": 2,
                "generator": OPTIM,
                "discriminator": OPTIM,
                **settings.pop("train", {}),
            },
            **settings,
        },
    }
    task = TokenizerTask(Recipe.model_validate(tree), tmp_path)
    task.build("plain")
    codebook = task.model.codebook
    codebook.initialized.fill_(True)
    codebook.N.fill_(1)
    return task


def _batch(step: int) -> TrainBatch:
    video = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(step)) - 0.5
    return TrainBatch(video, ["a", "b"])


def _count_passes(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_parity_takes_the_steps_of_the_original(tmp_path: Path) -> None:
    """Against a plain implementation: losses, weights, running statistics, codebook, Adam's late start."""
    task = _task(tmp_path, parity=True)
    assert task.config.train.forwards == 2 and task.config.train.idle_discriminators and task.discriminators
    model, discriminators = copy.deepcopy(task.model), copy.deepcopy(task.discriminators)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed = SeedTrainer(model, discriminators, task.config.loss, lr=OPTIM["lr"], clip=1.0)
    for step in range(STEPS):
        batch = _batch(step)
        frames = (task._frame_index(batch.video_bcthw, step), task._frame_index(batch.video_bcthw, step, "again"))
        wanted, wanted_d = seed.step(batch.video_bcthw, frames, step)
        found = task.train_step(batch, step)
        assert found["loss"] == pytest.approx(wanted, rel=1e-4), step
        assert found["d_loss"] == pytest.approx(wanted_d, rel=1e-4, abs=1e-6), step
        assert (wanted_d > 0) == (step >= START)
    for ours, theirs in ((task.model, model), (task.discriminators, discriminators)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(
                ours.state_dict()[name], value, rtol=2e-3, atol=_slack(name, STEPS, 2e-4), msg=name
            )
    assert task.model.encoder.final_block[0].num_batches_tracked == 2 * STEPS
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before) - 1, "all but the flag"


@pytest.mark.parametrize("start", [0, STEPS])
def test_one_pass_of_the_generator_a_batch(tmp_path: Path, start: int) -> None:
    task = _task(tmp_path, {"discriminator_start": start})
    passes = {name: _count_passes(task.model.get_submodule(name)) for name in ("encoder", "codebook", "decoder")}
    assert task.discriminators
    judged = _count_passes(task.discriminators.video_discriminator)
    task.train_step(_batch(0), 0)
    assert {name: len(calls) for name, calls in passes.items()} == {"encoder": 1, "codebook": 1, "decoder": 1}
    assert len(judged) == (2 if start == 0 else 0), "of the fakes and of the real clips"


OTHER_LOSSES = [
    {},
    {"gan_balance": "adaptive"},
    {"image_gan_weight": 0.0, "video_gan_weight": 0.5},
    {"gan_feature_weight": 0.0},
    {"discriminator_warmup": 3},
]


@pytest.mark.parametrize("losses", OTHER_LOSSES, ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_shared_passes_train_as_separate_ones(tmp_path: Path, losses: dict[str, Any], accumulate: int) -> None:
    found = []
    for shared in (True, False):
        task = _task(tmp_path, {"discriminator_start": 1, **losses}, train={"accumulate": accumulate})
        assert task.shared_passes and task.discriminators
        task.shared_passes = shared
        calls = _count_passes(task.discriminators.video_discriminator)
        rows = [task.train_step(_batch(step), step) for step in range(3)]
        weights = {**dict(task.model.named_parameters()), **dict(task.discriminators.named_parameters())}
        assert all(torch.isfinite(w).all() for w in weights.values())
        found.append((rows, {name: w.detach().clone() for name, w in weights.items()}))
        twice = losses.get("gan_feature_weight") != 0
        assert len(calls) == 2 * accumulate * (2 if shared else (4 if twice else 3))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], rtol=1e-4, atol=_slack(name, 3, 1e-5), msg=name)


@pytest.mark.parametrize("start", [0, STEPS])
def test_a_loss_scale_leaves_the_steps_alone(tmp_path: Path, start: int) -> None:
    """A power of two, as fp16's scale is: not a bit may change."""
    found = []
    for scale in (1.0, 1024.0):
        task = _task(tmp_path, {"discriminator_start": start})
        task.engine.scale.value = scale
        rows = [task.train_step(_batch(step), step) for step in range(3)]
        found.append((rows, {name: value.clone() for name, value in task.model.state_dict().items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def _slack(name: str, steps: int, otherwise: float) -> float:
    """How far weights may be apart. A bias before a batch norm has gradient 0; Adam makes steps of the rounding noise,
    and means follow."""
    noisy = name.endswith(("conv.bias", "convt.bias", ".0.bias", "running_mean"))
    return float(2 * OPTIM["lr"] * steps) if noisy else otherwise


def test_two_passes_under_parity(tmp_path: Path) -> None:
    task = _task(tmp_path, {"discriminator_start": STEPS}, parity=True)
    calls = _count_passes(task.model.codebook)
    task.train_step(_batch(0), 0)
    assert len(calls) == 2


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    """Blocks are computed twice: running statistics must not notice."""
    states, passes = [], []
    for recompute in (False, True):
        task = _task(tmp_path, {"discriminator_start": 1}, train={"checkpoint_activations": recompute})
        calls = _count_passes(task.model.decoder.get_submodule("conv_blocks.0.res1.norm1"))
        rows = [task.train_step(_batch(step), step) for step in range(3)]
        states.append((rows, {name: value.clone() for name, value in task.model.state_dict().items()}))
        passes.append(len(calls))
    assert passes == [3, 6]
    assert states[0][0] == states[1][0]
    for name, value in states[0][1].items():
        assert torch.equal(value, states[1][1][name]), name


def test_recomputed_activations_of_the_vqvae(tmp_path: Path) -> None:
    states = []
    for recompute in (False, True):
        model = {"kind": "vqvae", "n_hiddens": 8, "n_res_layers": 1}
        losses = {"image_gan_weight": 0.0, "video_gan_weight": 0.0}
        task = _task(tmp_path, losses, model=model, train={"checkpoint_activations": recompute})
        calls = _count_passes(task.model.encoder.get_submodule("res_stack.0.block.0"))
        for step in range(2):
            task.train_step(_batch(step), step)
        states.append({name: value.clone() for name, value in task.model.state_dict().items()})
    assert len(calls) == 4
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_adaptive_weight_evens_out_the_gradients(tmp_path: Path) -> None:
    """However loud the discriminators, their gradient at the last layer is as large as the reconstruction's."""
    rows = {}
    for weight in (1.0, 100.0):
        losses = {"discriminator_start": 0, "gan_feature_weight": 0.0, "gan_balance": "adaptive"}
        task = _task(tmp_path, losses | {"image_gan_weight": weight, "video_gan_weight": weight})
        rows[weight] = task.train_step(_batch(0), 0)
    assert rows[1.0]["gan_lambda"] > 0
    assert rows[1.0]["gan_lambda"] == pytest.approx(100 * rows[100.0]["gan_lambda"], rel=1e-2)
    assert rows[1.0]["adversarial"] == pytest.approx(rows[100.0]["adversarial"], rel=1e-2)


def test_warm_up_and_the_discriminators_own_schedule(tmp_path: Path) -> None:
    """The adversarial loss grows, and the discriminators' learning rate warms up when they join, not before."""
    discriminator = {**OPTIM, "warmup_steps": 4}
    task = _task(tmp_path, {"discriminator_warmup": 3}, train={"discriminator": discriminator})
    lrs: list[float] = []
    step_once = task.d_engine.step
    task.d_engine.step = lambda lr: (lrs.append(lr), step_once(lr))[1]  # type: ignore[method-assign]
    for step in range(STEPS):
        task.train_step(_batch(step), step)
    assert lrs == pytest.approx([OPTIM["lr"] * share for share in (0.25, 0.5)])


def test_parts_of_a_batch(tmp_path: Path) -> None:
    """Accumulated over two parts, with group norm and a still codebook, the gradient is that of the whole batch."""
    model = {"norm": "group", "n_hiddens": 16, "ema_decay": 0.999999}
    found = []
    for parts in (1, 2):
        task = _task(tmp_path, model=model, train={"accumulate": parts})
        task.engine.step = lambda lr: 0.0  # type: ignore[method-assign]
        row = task.train_step(_batch(0), 0)
        del row["perplexity"]  # the mean of the parts' perplexities
        found.append((row, {name: p.grad for name, p in task.model.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for name, gradient in found[0][1].items():
        assert gradient is not None and gradient.any()
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
