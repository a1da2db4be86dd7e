"""A token store that is easy to learn, with a tokenizer, for training every kind of prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.config import Recipe
from tests import tiny_run
from tests.tokens.making import make_store, token_row
from vtok import artefacts
from vtok.tokenizers.load import build_tokenizer
from vtok.weights import write_weights

GRID, CODES, CLASSES, SOUNDS = (2, 4, 4), 16, 3, 6


def learnable_row(number: int, split: str, codebook_size: int, grid: tuple[int, int, int]) -> dict[str, Any]:
    """One of four codes everywhere: any code tells all others, and their places tell nothing."""
    code = np.random.default_rng(number).integers(4) * (codebook_size // 4)
    t, h, w = grid
    frame = np.full((4 * h, 4 * w, 3), 16 * code, dtype=np.uint8)
    return {
        **token_row(number, split, codebook_size, grid),
        "codes": np.full(t * h * w, code),
        "label": number % CLASSES,
        "height": 4 * h,
        "width": 4 * w,
        "caption": f"a clip in {['red', 'green', 'blue', 'white'][code // 4]}",
        "cond_frames": np.stack([frame, frame]).tobytes(),
        "audio_codes": np.array([code % 3, 2 + code // 4, 1]),
    }


def make_learnable_run(out: Path, monkeypatch: pytest.MonkeyPatch, *, conditions: bool = True) -> Path:
    """Tokenizer and tokens of a run; without `conditions`, rows have none."""
    fingerprint = _make_tokenizer(out)
    if conditions:
        monkeypatch.setattr("tests.tokens.making.token_row", learnable_row)
    make_store(
        out / "tokens",
        {"train": [32], "test": [24]},
        codebook_size=CODES,
        tokenizer=fingerprint,
        row_group_rows=8,
        grid=GRID,
        audio_codebook_size=SOUNDS if conditions else 0,
    )
    return out


def _make_tokenizer(out: Path) -> str:
    model = tiny_run.recipe(out).tokenizer.model
    tokenizer, folder = build_tokenizer(model).eval(), out / "tokenizer"
    plan = artefacts.make_plan("tokenizer", {"model": model.plain()}, {"shards": "0" * 64}, [])
    artefacts.begin(folder, plan)
    digest = write_weights(folder, "tokenizer", tokenizer.state_dict(), {"model": model.plain()})
    facts = {
        "fingerprint": tokenizer.fingerprint,
        "codebook_size": CODES,
        "downsample": list(model.downsample),
        "grid": list(GRID),
    }
    artefacts.seal_card(folder, plan, index_sha256=digest, counts={"steps": 0, "bytes": 1}, facts=facts)
    return tokenizer.fingerprint


def recipe_of(
    out: Path, model: dict[str, Any], *, steps: int, lr: float, sample: dict[str, Any] | None = None, **train: Any
) -> Recipe:
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
            "validate_clips": 24,
            "checkpoint_every": steps,
            "optim": {"lr": lr, "schedule": "cosine", "weight_decay": 0.0},
            **train,
        },
    }
    tree["sample"] = {"num": 3, "batch_size": 2, **(sample or {})}
    return Recipe.model_validate(tree)
