"""Every shipped recipe's prior is built, without memory for its weights; the papers' have their sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import vtok
from schemas.config import Recipe, load_recipe
from vtok.priors.build import AnyPrior, Facts, build_prior
from vtok.priors.flops import flops_per_token

FOLDER = Path(vtok.__file__).parent / "recipes"
CLASSES = 101
# Kind, millions of parameters (reference: the originals' own models, instantiated), codes that are learnt a clip.
PUBLISHED = {
    "videogpt-bair": ("videogpt", 72.5, 4096),
    "videogpt-ucf101": ("videogpt", 33.24, 4096),
    "videogpt-ucf101-class": ("videogpt", 35.2, 4096),
    "tats-ucf101": ("gpt", 336.9, 1024),
    "tats-sky": ("gpt", 336.9, 1024),
    "tats-taichi": ("gpt", 336.9, 1024),
    "tats-ucf101-class": ("gpt", 337.1, 1024),
    "tats-mugen-text": ("gpt", 438.4, 1024),
    "tats-drums-audio": ("gpt", 338.6, 576),
    "tats-sky-keys": ("gpt", 336.9, 1024),
    "tats-sky-fill": ("gpt", 337.2, 1280),
    "vqgan-256px-32frames": ("gpt", 340.1, 4096),
    **{f"mebt-{name}-16": ("mebt", 337.2, 1024) for name in ("ucf101", "sky", "taichi")},
    **{f"mebt-{name}-128": ("mebt", 344.5, 8192) for name in ("ucf101", "sky", "taichi")},
}


def _built(recipe: Recipe) -> AnyPrior:
    model, data = recipe.tokenizer.model, recipe.data
    grid = model.grid(data.num_frames, data.resolution, data.resolution)
    classes = CLASSES if recipe.prior.model.condition == "label" else 0
    with torch.device("meta"):
        codebook = torch.zeros(model.n_codes, model.embedding_dim)
        return build_prior(recipe.prior.model, Facts(model.n_codes, grid, classes, data.resolution, lambda: codebook))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_recipe_s_prior_builds(name: str) -> None:
    recipe = load_recipe(FOLDER / f"{name}.yaml", shipped=FOLDER)
    prior = _built(recipe)
    if name not in PUBLISHED:
        return
    kind, millions, codes = PUBLISHED[name]
    found = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    assert (recipe.prior.model.kind, math.prod(prior.grid)) == (kind, codes)
    assert found == pytest.approx(millions, abs=0.06 if millions < 400 else 0.2)
    tokenizer, data = recipe.tokenizer.model, recipe.data
    grid = tokenizer.grid(data.num_frames, data.resolution, data.resolution)
    flops = flops_per_token(recipe.prior.model, tokenizer.n_codes, grid, embedding_dim=256, resolution=data.resolution)
    assert 1.5e8 < flops < 6e6 * millions * 2.5


def test_published_training() -> None:
    for name, lr, batch, decay in (
        ("tats-ucf101", 1.08e-4, 24, 0.01),
        ("videogpt-bair", 3e-4, 32, 0.0),
        ("mebt-sky-128", 1.8e-5, 5, 1e-4),
    ):
        train = load_recipe(FOLDER / f"{name}.yaml", shipped=FOLDER).prior.train
        assert (train.optim.lr, train.batch_size, train.optim.weight_decay) == (lr, batch, decay)
