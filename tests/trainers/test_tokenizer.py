"""VideoGPT's VQ-VAE through the trainer: no discriminators, the loss falls, what is saved loads, resume is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml

from schemas.config import Recipe
from schemas.errors import IntegrityError
from tests.trainers.making import losses, prepare, same_weights
from trainers.tokenizer import TokenizerTask, TrainBatch, train_tokenizer
from vtok import artefacts
from vtok.tokenizers.load import load_tokenizer
from vtok.tokenizers.vqvae import VQVAE

STEPS = 40


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The loop sets the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _recipe(inputs: Path, out: Path) -> Recipe:
    prepare(inputs, out, "tokenizer", steps=STEPS, checkpoint_every=16, validate_every=STEPS)
    tree: dict[str, Any] = yaml.safe_load((out / "recipe.yaml").read_text())
    model = {"kind": "vqvae", "embedding_dim": 8, "n_codes": 16, "n_hiddens": 16, "n_res_layers": 1}
    train = {key: value for key, value in tree["tokenizer"]["train"].items() if key != "generator"}
    tree["tokenizer"] = {
        "model": {**model, "downsample": [2, 4, 4]},
        "train": {**train, "generator": {"lr": 3e-3}},
    }
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = _recipe(inputs, tmp_path_factory.mktemp("vqvae") / "run")
    train_tokenizer(recipe)
    return recipe.folder("tokenizer")


def test_the_loss_falls(trained: Path) -> None:
    rows = losses(trained)
    first = median(rows[step]["recon"] for step in range(1, 6))
    last = median(rows[step]["recon"] for step in range(STEPS - 9, STEPS + 1))
    assert last < 0.5 * first
    assert rows[STEPS]["val_psnr"] > rows[STEPS]["val_psnr_still"] + 3
    for row in rows.values():
        assert row["loss"] == pytest.approx(row["recon"] + row["commit"], rel=1e-5)
        assert not {"d_loss", "adversarial"} & row.keys()
    assert not list(trained.rglob("discriminators"))


def test_what_was_saved_loads(trained: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained)
    card = artefacts.load(trained, "tokenizer")
    assert isinstance(tokenizer, VQVAE)
    assert tokenizer.fingerprint == card.facts["fingerprint"]
    assert tokenizer.codebook.initialized
    assert not tokenizer.training
    with torch.no_grad():
        tokenizer.codebook.embeddings[3, 2] += 1e-6
    assert tokenizer.fingerprint != card.facts["fingerprint"]

    weights = trained / "tokenizer.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        load_tokenizer(trained)
    weights.write_bytes(kept)


def test_a_stopped_run_resumes_exactly(
    inputs: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(inputs, tmp_path / "run")
    step_once = TokenizerTask.train_step

    def stops(self: TokenizerTask, batch: TrainBatch, step: int) -> dict[str, float]:
        if step == 20:
            raise RuntimeError("the machine went away")
        return step_once(self, batch, step)

    monkeypatch.setattr(TokenizerTask, "train_step", stops)
    with pytest.raises(RuntimeError, match="went away"):
        train_tokenizer(recipe)
    monkeypatch.setattr(TokenizerTask, "train_step", step_once)
    train_tokenizer(recipe)
    assert same_weights(recipe.folder("tokenizer"), trained)
    assert losses(recipe.folder("tokenizer")) == losses(trained)
