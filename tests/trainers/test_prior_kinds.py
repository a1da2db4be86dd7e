"""Every kind of prior learns from a token store, is loaded again, and draws clips."""

from __future__ import annotations

import json
import math
from collections import Counter
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
from vtok.priors.tats import GptPrior
from vtok.tokens.store import TokenStore

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 32}
# Model, steps, learning rate, how to sample.
KINDS: dict[str, tuple[dict[str, Any], int, float, dict[str, Any]]] = {
    "gpt": (SMALL | {"condition": "label", "condition_drop": 0.2}, 25, 1e-2, {"guidance": 2.0, "top_k": 3}),
    "gpt-rope": (SMALL | {"positions": "rope", "qk_norm": True}, 25, 1e-2, {"latent_frames": 3}),
    "gpt-text": (
        SMALL | {"condition": "text", "condition_length": 12, "condition_vocabulary": 300},
        25,
        1e-2,
        {"given_frames": 1},
    ),
    "gpt-audio": (
        SMALL | {"condition": "audio", "condition_length": 3, "condition_vocabulary": 6},
        25,
        1e-2,
        {"latent_frames": 4},
    ),
    "videogpt": (SMALL | {"kind": "videogpt", "n_embd": 48, "condition": "label", "dropout": 0.1}, 25, 1e-2, {}),
    "mebt": (
        SMALL | {"kind": "mebt", "n_layer": 4, "latents": 8, "dropout": 0.0, "condition": "label"},
        40,
        5e-3,
        {"masked": {"steps": 4, "bootstrap": 2, "revise_passes": 1}, "latent_frames": 3, "given_frames": 1},
    ),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_trains_and_samples(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    model, steps, lr, sampling = KINDS[kind]
    recipe = recipe_of(out, model, steps=steps, lr=lr, sample=sampling)
    card = train_prior(recipe)
    rows = [json.loads(line) for line in (out / "prior" / "metrics.jsonl").read_text().splitlines()]
    assert card.facts["kind"] == model.get("kind", "gpt")
    assert card.facts["position_entropy"] > 1.2
    assert rows[-1]["val"] < 0.85 * card.facts["position_entropy"], [row["loss"] for row in rows]
    assert rows[-1]["val"] < rows[0]["loss"]
    receipts = [receipt for row in rows for receipt in row.get("receipts", [])]
    assert [receipt["epoch"] for receipt in receipts] == list(range(steps // 4)), "32 clips in batches of 8"
    assert all(receipt["sound"] and receipt["once"] == 32 for receipt in receipts)
    assert load_prior(out / "prior").config.kind == card.facts["kind"]
    drawn = _draw_and_check(recipe, out)
    frames = sampling.get("latent_frames", 2)
    assert {len(row["codes"]) for row in drawn} == {16 * frames}
    shares = [max(Counter(row["codes"]).values()) / len(row["codes"]) for row in drawn]
    assert sum(shares) / len(shares) > 0.55, "clips of the store have one of four codes each; by chance it would be 0.4"


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
    assert max(max(row["codes"]) for row in rows) < 16
    assert rows[3]["codes"] == rows[1]["codes"], "a clip does not depend on its batch"
    return rows


def test_frames_condition_videogpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    model = SMALL | {"kind": "videogpt", "n_embd": 12, "cond_frames": 1, "frame_width": 12}
    recipe = recipe_of(out, model, steps=2, lr=1e-3, validate_clips=4)
    card = train_prior(recipe)
    assert math.isfinite(json.loads((out / "prior" / "metrics.jsonl").read_text().splitlines()[-1])["val"])
    assert card.counts["parameters"] > 1e6, "the ResNet of the frames"
    _draw_and_check(recipe, out)


def test_crops_with_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    recipe = recipe_of(out, SMALL | {"boxes": True}, steps=4, lr=1e-2, crop=[2, 2, 2], views=["whole"])
    card = train_prior(recipe)
    assert card.facts["grid"] == [2, 2, 2]
    assert "prior: epoch 0: 32 of 32 clips seen exactly once\n" in "".join(capsys.readouterr())
    assert artefacts.load_plan(out / "prior").config["train"]["views"] == ["whole"]
    prior = load_prior(out / "prior")
    assert isinstance(prior, GptPrior)
    assert prior.transformer.vtokens_pos_emb.shape == (1, *GRID, 32)
    assert prior.transformer.vtokens_pos_emb.abs().max() > 0


def test_missing_conditions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch, conditions=False)
    small = {"n_layer": 1, "n_head": 2, "n_embd": 12}
    frames = {**small, "kind": "videogpt", "cond_frames": 1, "frame_width": 12}
    text = {**small, "condition": "text"}
    for model, what in ((frames, "conditioning frames"), (text, "captions")):
        with pytest.raises(UsageError, match=f"has no {what}") as caught:
            train_prior(recipe_of(out, model, steps=1, lr=1e-3))
        assert "prior.model" in caught.value.hint
    assert TokenStore(out / "tokens").grid == GRID
