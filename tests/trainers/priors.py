"""A token store that is easy to learn, with a tokenizer, for training every kind of prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from schemas.config import Recipe
from tests import tiny_run
from tests.pipelines.making import make_tokenizer
from tests.tokens.making import make_store
from vtok import artefacts

GRID, CODES, CLASSES = (2, 4, 4), 16, 3


def learnable(number: int, codebook_size: int, grid: tuple[int, int, int]) -> np.ndarray:
    """Four codes in turn from a start of their own: any two codes tell all others, their position tells nothing."""
    start = np.random.default_rng(number).integers(4)
    places = np.arange(int(np.prod(grid)))
    return (start + places) % 4 * (codebook_size // 4)


def make_learnable_run(out: Path, monkeypatch: Any) -> Path:
    """Tokenizer and tokens of a run."""
    settings = tiny_run.recipe(out)
    make_tokenizer(settings)
    fingerprint = artefacts.load(out / "tokenizer", "tokenizer").facts["fingerprint"]
    monkeypatch.setattr("tests.tokens.making.codes_of_clip", learnable)
    make_store(
        out / "tokens",
        {"train": [32], "test": [8]},
        codebook_size=CODES,
        tokenizer=fingerprint,
        row_group_rows=8,
        grid=GRID,
    )
    return out


def recipe_of(out: Path, model: dict[str, Any], *, steps: int, lr: float, **train: Any) -> Recipe:
    """A recipe that trains a prior on it."""
    tree = tiny_run.recipe(out).plain()
    tree["prior"] = {
        "model": model,
        "train": {
            "engine": "plain",
            "steps": steps,
            "batch_size": 8,
            "threads": 1,
            "log_every": 10,
            "validate_every": steps,
            "validate_clips": 8,
            "checkpoint_every": steps,
            "optim": {"lr": lr, "schedule": "cosine", "weight_decay": 0.0},
            **train,
        },
    }
    tree["sample"] = {"num": 3, "batch_size": 2}
    return Recipe.model_validate(tree)
