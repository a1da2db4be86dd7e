"""Every shipped recipe's tokenizer is built, without memory for its weights, and has the published size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vtok
from schemas.config import Recipe, load_recipe
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.losses import uses_discriminators

FOLDER = Path(vtok.__file__).parent / "recipes"
VIDEOGPT, TATS, TATS_16 = 21_141_619, 23_652_227, 95_622_275
# The paper's own code: convolutions of 128 channels in its 8 residual blocks, one of 3x3x3 after the codes, positions.
WIDE_BLOCKS = 8 * ((128 - 120) * (240 * 27 + 240) + 2 * (128 - 120))
PAPER = VIDEOGPT - 2 * (240 * 240 * 64 + 240) + WIDE_BLOCKS + 256 * 240 * 26 + (8 + 32 + 32) * 80
# Parameters, codes a clip, clips a batch, peak learning rate.
PUBLISHED = {
    "videogpt-bair": (VIDEOGPT, (4, 32, 32), 32, 3e-4),
    "videogpt-ucf101": (VIDEOGPT, (4, 32, 32), 32, 3e-4),
    "videogpt-kinetics": (VIDEOGPT, (4, 32, 32), 32, 3e-4),
    "videogpt-paper-bair": (PAPER, (8, 32, 32), 32, 3e-4),
    "videogpt-kinetics-fine": (VIDEOGPT, (8, 32, 32), 32, 3e-4),
    "tats-ucf101": (TATS, (4, 16, 16), 96, 9e-5),
    "tats-sky": (TATS, (4, 16, 16), 96, 9e-5),
    "tats-taichi": (TATS, (4, 16, 16), 96, 9e-5),
    "tats-mugen": (TATS_16, (4, 16, 16), 96, 9e-5),
    "vqgan-256px-32frames": (TATS_16, (16, 16, 16), 128, 2e-4),
}


def _recipe(name: str) -> Recipe:
    return load_recipe(FOLDER / f"{name}.yaml", shipped=FOLDER)


def _parameters(recipe: Recipe) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_tokenizer(recipe.tokenizer.model).parameters())


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_recipe_builds(name: str) -> None:
    recipe = _recipe(name)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert _parameters(recipe) > 0
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_settings(name: str) -> None:
    recipe = _recipe(name)
    parameters, grid, batch, lr = PUBLISHED[name]
    data, tokenizer = recipe.data, recipe.tokenizer
    assert _parameters(recipe) == parameters
    assert tokenizer.model.grid(data.num_frames, data.resolution, data.resolution) == grid
    assert (tokenizer.train.batch_size, tokenizer.train.generator.lr) == (batch, lr)
    assert uses_discriminators(tokenizer.loss) == (tokenizer.model.kind == "vqgan")
    if tokenizer.model.kind == "vqvae":
        assert (tokenizer.loss.l1_weight, tokenizer.loss.l2_weight) == (0, 1 / 0.06)
        paper = name == "videogpt-paper-bair"
        assert tokenizer.train.generator.clip_grad_norm == (1.0 if paper else None)
        assert tokenizer.model.n_codes == (1024 if paper else 2048)
        assert tokenizer.train.steps == (100_000 if paper else 200_000)
    else:
        assert tokenizer.train.discriminator == tokenizer.train.generator
        assert tokenizer.train.generator.betas == (0.5, 0.9)
        assert (tokenizer.loss.l1_weight, tokenizer.loss.perceptual_weight) == (4, 4)
        assert (tokenizer.model.n_codes, tokenizer.model.random_restart) == (16384, False)
