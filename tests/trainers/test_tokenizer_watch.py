"""What a tokenizer's training shows and says: measures, previews, a collapsing codebook, a batch that breaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.config import Recipe
from schemas.errors import UsageError, VtokError
from tests.trainers.making import losses, prepare, settings
from tests.trainers.test_tensorboard import histograms
from trainers.tokenizer import RUN_ONLY, TokenizerTask, TrainBatch, train_tokenizer
from vtok import artefacts
from vtok.cli import main
from vtok.evaluation.reconstruction import sharpness, ssim
from vtok.metrics_log import read_metrics
from vtok.tokenizers.autoencoder import Reconstruction
from vtok.tokenizers.lpips import LPIPS


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The loop sets the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lpips_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16 and heads of small random numbers."""
    draws = torch.Generator().manual_seed(0)
    state = {}
    for name, value in LPIPS().state_dict().items():
        if not name.startswith("scaling_layer."):
            noise = torch.randn(value.shape, generator=draws) / max(1, value[0].numel()) ** 0.5
            state[name] = noise.abs() if name.startswith("lin") else noise
    path = tmp_path_factory.mktemp("lpips") / "weights.safetensors"
    save_file(state, path)
    return path


def _task(inputs: Path, folder: Path, losses: dict[str, Any] | None = None, **train: Any) -> TokenizerTask:
    tree = settings(inputs, steps=10, engine="plain")
    tree["tokenizer"]["train"] |= train
    tree["tokenizer"]["loss"] |= losses or {}
    task = TokenizerTask(Recipe.model_validate(tree), folder)
    task.build("plain")
    return task


def test_a_validation_measures_and_shows(inputs: Path, tmp_path: Path, lpips_weights: Path) -> None:
    task = _task(inputs, tmp_path, {"lpips_weights": str(lpips_weights)})
    values = task.validate(7)
    assert task.model.training
    assert 0 < values["val_psnr"] < 60 and -1 <= values["val_ssim"] <= 1 and values["val_lpips"] > 0
    assert values["val_sharpness"] > 0
    assert 1 <= values["val_perplexity"] <= 16 and 0 <= values["val_dead"] < 16
    assert "warnings" not in values, "it is too early to tell"
    with Image.open(tmp_path / "previews" / "usage-00000007.png") as picture:
        assert picture.size == (640, 240)
    assert (tmp_path / "previews" / "step-00000007.gif").exists()
    half = _task(inputs, tmp_path, {"lpips_weights": str(lpips_weights), "lpips_half_contrast": True})
    assert half.validate(7)["val_lpips"] == pytest.approx(values["val_lpips"], rel=1e-4), "measured as it should be"
    assert "val_lpips" not in _task(inputs, tmp_path).validate(7)


def test_the_perceptual_loss_trains(inputs: Path, tmp_path: Path, lpips_weights: Path) -> None:
    quirks = {"lpips_half_contrast": True, "lpips_dropout": True}
    rows = []
    for options in ({}, quirks, quirks):
        weights = {"lpips_weights": str(lpips_weights), "perceptual_weight": 1.0, **options}
        task = _task(inputs, tmp_path, weights)
        rows.append(task.train_step(next(task.batches(0)), 0))
    assert rows[0]["perceptual"] > 0 and rows[0]["perceptual"] != rows[1]["perceptual"]
    assert rows[1] == rows[2], "dropout is drawn from the run's seed"
    with pytest.raises(UsageError, match="no LPIPS weights"):
        _task(inputs, tmp_path, {"perceptual_weight": 1.0})


def test_a_collapse_is_told(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = _task(inputs, tmp_path, warn_after=5, warn_usage_below=1.0)
    task.model.codebook.N.fill_(1)
    assert "warnings" not in task.validate(4)
    assert "WARN" not in capfd.readouterr().err
    (warning,) = task.validate(5)["warnings"]
    assert "the codebook collapses" in warning and "tokenizer.model.n_codes" in warning
    assert f"WARN tokenizer step 5: {warning}" in capfd.readouterr().err


def _losses_of_generators(task: TokenizerTask, clips: slice, number: int = 0) -> dict[str, float]:
    """The generator's phase of a part that holds some of four clips; nothing is learnt."""
    draws = torch.Generator().manual_seed(0)
    video, recon = (torch.rand(4, 3, 2, 16, 16, generator=draws)[clips] - 0.5 for _ in range(2))
    zero = torch.zeros(())
    output = Reconstruction(recon.requires_grad_(), zero, zero, torch.zeros(len(video), 1, 4, 4, dtype=torch.int64))
    task.engine.backward = lambda loss: None  # type: ignore[method-assign]
    return task._generator_phase(video, output, torch.zeros(len(video), dtype=torch.int64), 3, number)[0]


def test_dropout_depends_on_the_place_in_the_global_batch(
    inputs: Path, tmp_path: Path, lpips_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"lpips_weights": str(lpips_weights), "perceptual_weight": 1.0, "lpips_dropout": True}
    halves = (slice(0, 2), slice(2, 4))
    whole = _losses_of_generators(_task(inputs, tmp_path, weights), slice(0, 4))["perceptual"]
    task = _task(inputs, tmp_path, weights, accumulate=2)
    parts = [_losses_of_generators(task, half, number)["perceptual"] for number, half in enumerate(halves)]
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)
    task, ranks = _task(inputs, tmp_path, weights), []
    for number, half in enumerate(halves):
        monkeypatch.setattr("trainers.tokenizer.rank", lambda number=number: number)
        ranks.append(_losses_of_generators(task, half)["perceptual"])
    assert ranks == pytest.approx(parts, rel=1e-6)
    other = _losses_of_generators(task, halves[0])["perceptual"]
    assert other != pytest.approx(ranks[0], rel=1e-5), "the second rank has other masks for the same clips"


class _Fetched(TorchDispatchMode):
    """Counts the numbers that are fetched one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_numbers_of_a_phase_are_fetched_together(inputs: Path, tmp_path: Path) -> None:
    task = _task(inputs, tmp_path, {"discriminator_start": 0})
    with _Fetched() as fetched:
        float(torch.ones(()))
        assert fetched.count == 1
        found = _losses_of_generators(task, slice(0, 4))
    assert len(found) == 6 and all(type(value) is float for value in found.values())
    assert fetched.count == 1


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_that_frames_do_not_have_are_refused(inputs: Path, tmp_path: Path, channels: int) -> None:
    tree = prepare(inputs, tmp_path / "run", "tokenizer").plain()
    tree["tokenizer"]["model"]["image_channels"] = channels
    recipe = Recipe.model_validate(tree)
    for refused in (lambda: train_tokenizer(recipe), lambda: TokenizerTask(recipe, tmp_path)):
        with pytest.raises(UsageError, match=f"would see {channels} channels, and frames have 3") as caught:
            refused()
        assert caught.value.at == "tokenizer.model.image_channels"
        assert f"VQGAN(VqganConfig(image_channels={channels}))" in caught.value.hint
        assert "tokenizer.spectrum" in caught.value.hint
    assert not recipe.folder("tokenizer").exists(), "nothing is planned, so the recipe can be mended"


def test_dead_codes_are_told(inputs: Path, tmp_path: Path) -> None:
    task = _task(inputs, tmp_path, warn_after=0, warn_usage_below=0.0, warn_dead_above=0.0, warn_restarts_above=1.0)
    with torch.no_grad():
        task.model.codebook.embeddings[3:] = 1e6
    found = task.validate(1)
    assert found["val_dead"] >= 13
    (warning,) = found["warnings"]
    assert f"codes are dead: {16 - found['val_dead']:.0f} occur where 16 could" in warning
    assert "warn_dead_above" in RUN_ONLY, "it changes no plan"


def test_warnings_go_to_the_metrics(inputs: Path, tmp_path: Path) -> None:
    recipe = prepare(inputs, tmp_path / "run", "tokenizer", steps=2, validate_every=1)
    tree = recipe.plain()
    tree["tokenizer"]["train"] |= {"warn_after": 2, "warn_usage_below": 1.0, "warn_restarts_above": 1.0}
    recipe = Recipe.model_validate(tree)
    train_tokenizer(recipe)
    first, second = read_metrics(recipe.folder("tokenizer"))
    assert "warnings" not in first and "collapses" in second["warnings"][0]
    (events,) = (recipe.folder("tokenizer") / "tensorboard").iterdir()
    shown = histograms(events)
    assert list(shown) == [1, 2] and list(shown[1]) == ["val_usage"]
    buckets = np.frombuffer(shown[2]["val_usage"][7], "<f8")
    assert len(buckets) == 16 and (np.diff(buckets) <= 0).all(), "a bucket a code, the most frequent code first"
    assert (buckets == 0).sum() == second["val_dead"]


def test_a_batch_that_breaks_the_training_is_kept(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepare(inputs, tmp_path / "run", "tokenizer")
    seen: list[TrainBatch] = []
    step_once = TokenizerTask.train_step

    def poisoned(self: TokenizerTask, batch: TrainBatch, step: int) -> dict[str, float]:
        if step == 2:
            batch.video_bcthw[1, 0, 0, 0, 0] = float("nan")
            seen.append(batch)
        return step_once(self, batch, step)

    monkeypatch.setattr(TokenizerTask, "train_step", poisoned)
    with pytest.raises(VtokError, match="the loss is nan at step 3; the batch is in bad-batch-step-00000003"):
        train_tokenizer(recipe)
    folder = recipe.folder("tokenizer")
    (path,) = folder.glob("bad-batch-*")
    with safe_open(path, "pt") as stored:
        assert json.loads(stored.metadata()["clip_ids"]) == seen[0].clip_ids and len(set(seen[0].clip_ids)) == 4
        (name,) = stored.keys()
        video = stored.get_tensor(name)
    assert torch.equal(video.isnan(), seen[0].video_bcthw.isnan()) and video.isnan().sum() == 1
    assert not (folder / "_vtok.json").exists()


def test_structural_similarity() -> None:
    video = torch.rand(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ssim(video, video), torch.ones(2))
    near, far = ssim(video + 0.05 * noise, video), ssim(video + 0.5 * noise, video)
    assert near.shape == (2,) and (near > 0.85).all() and (far < near - 0.2).all()
    alone = ssim(video[1:] + 0.05 * noise[1:], video[1:])
    torch.testing.assert_close(alone[0], near[1])


def test_sharpness() -> None:
    draws = torch.Generator().manual_seed(0)
    video = torch.rand(2, 3, 2, 16, 16, generator=draws) - 0.5
    video[1] *= 0.1
    torch.testing.assert_close(sharpness(video, video), torch.ones(2))
    torch.testing.assert_close(sharpness(video / 2, video), torch.full((2,), 0.25), rtol=1e-3, atol=0)
    blurred = torch.nn.functional.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    assert (sharpness(blurred, video) < 0.3).all() and (sharpness(video, blurred) > 3).all()
    flat = torch.zeros(1, 3, 2, 16, 16)
    torch.testing.assert_close(sharpness(flat, flat), torch.ones(1))
    assert float(sharpness(flat, video[:1])) < 1e-4
    outside = 0.5 * torch.ones_like(flat) + torch.rand(flat.shape, generator=draws)
    torch.testing.assert_close(sharpness(outside, flat), torch.ones(1))


def test_the_vqvae_from_the_command_line(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """VideoGPT's settings by default, one optimiser, an artefact at the end."""
    import yaml

    out = tmp_path / "run"
    prepare(inputs, out, "tokenizer", steps=4)
    tree = yaml.safe_load((out / "recipe.yaml").read_text())
    model = {"kind": "vqvae", "embedding_dim": 8, "n_codes": 16, "n_hiddens": 8, "n_res_layers": 1}
    train = {key: value for key, value in tree["tokenizer"]["train"].items() if key != "generator"}
    tree["tokenizer"] = {"model": {**model, "downsample": [2, 4, 4]}, "train": train}
    (out / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert main(["train", "tokenizer", str(out / "recipe.yaml"), "tokenizer.parity=true"]) == 0
    folder = out / "tokenizer"
    rows = losses(folder)
    assert sorted(rows) == [1, 2, 3, 4] and all(row["lr"] == 3e-4 for row in rows.values())
    assert not {"d_loss", "adversarial"} & rows[4].keys()
    assert artefacts.load(folder, "tokenizer").counts["steps"] == 4
    assert "tokenizer 4/4" in capfd.readouterr().out
