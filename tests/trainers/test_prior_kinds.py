"""Every kind of prior learns from a token store, is loaded again, and draws clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.generate import GenerateWorker
from schemas.config import Recipe
from schemas.errors import UsageError
from schemas.samples import SAMPLES
from tests.trainers.priors import GRID, make_learnable_run, recipe_of
from trainers.prior import train_prior
from vtok import artefacts
from vtok.files import read_table
from vtok.priors.load import load_prior
from vtok.tokens.store import TokenStore

KINDS: dict[str, tuple[dict[str, Any], int, float]] = {
    "gpt": ({"kind": "gpt", "n_layer": 1, "n_head": 2, "n_embd": 32, "condition": "label"}, 25, 1e-2),
    "gpt-rope": ({"kind": "gpt", "n_layer": 1, "n_head": 2, "n_embd": 32, "positions": "rope", "qk_norm": True}, 25, 1e-2),
    "videogpt": ({"kind": "videogpt", "n_layer": 1, "n_head": 2, "n_embd": 48, "dropout": 0.0}, 25, 1e-2),
    "mebt": ({"kind": "mebt", "n_layer": 4, "n_head": 2, "n_embd": 32, "latents": 8, "dropout": 0.0}, 40, 5e-3),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_trains_and_samples(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    model, steps, lr = KINDS[kind]
    recipe = recipe_of(out, model, steps=steps, lr=lr)
    card = train_prior(recipe)
    rows = [json.loads(line) for line in (out / "prior" / "metrics.jsonl").read_text().splitlines()]
    assert card.facts["kind"] == model["kind"]
    assert card.facts["position_entropy"] > 1.2
    assert rows[-1]["val"] < 0.85 * card.facts["position_entropy"], [row["loss"] for row in rows]
    assert rows[-1]["val"] < rows[0]["loss"]
    prior = load_prior(out / "prior")
    assert prior.config.kind == model["kind"]
    _draw_and_check(recipe, out)


def _draw_and_check(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    folder = recipe.folder("samples")
    folder.mkdir()
    classes = artefacts.load(out / "prior", "prior").facts["classes"]
    threads = torch.get_num_threads()
    worker = GenerateWorker(
        str(folder), "0" * 64, str(out / "prior"), str(out / "tokenizer"), recipe.sample.plain(), 0, classes,
        str(out / "tokens"),
    )  # fmt: skip
    parts = [worker.make(f"part-{i}.parquet", numbers) for i, numbers in enumerate(([0, 1], [2], [1]))]
    torch.set_num_threads(threads)
    rows = [row for part in parts for row in read_table(folder / part.path, schema=SAMPLES).to_pylist()]
    assert [len(row["codes"]) for row in rows] == [32] * 4
    assert max(max(row["codes"]) for row in rows) < 16
    assert rows[3]["codes"] == rows[1]["codes"], "a clip does not depend on its batch"
    return rows


def test_missing_conditions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    small = {"n_layer": 1, "n_head": 2, "n_embd": 12}
    frames = {**small, "kind": "videogpt", "cond_frames": 1, "frame_width": 12}
    text = {**small, "condition": "text"}
    for model, what in ((frames, "conditioning frames"), (text, "captions")):
        with pytest.raises(UsageError, match=f"has no {what}") as caught:
            train_prior(recipe_of(out, model, steps=1, lr=1e-3))
        assert "prior.model" in caught.value.hint
    assert TokenStore(out / "tokens").grid == GRID
