"""What a prior's training and its evaluation take from a token store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UsageError
from tests.trainers import priors
from tests.trainers.priors import SOUNDS, make_learnable_run, recipe_of
from trainers.prior import PriorTask, train_prior
from vtok.evaluation.protocols import prior
from vtok.tokens.store import TokenStore

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 32}


def test_a_prior_of_some_views_is_validated_and_evaluated_on_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = priors.learnable_row

    def in_two_views(number: int, *options: Any) -> dict[str, Any]:
        return {**real(number, *options), "view_id": ["whole", "mirrored"][number % 2]}

    monkeypatch.setattr(priors, "learnable_row", in_two_views)
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    recipe = recipe_of(out, SMALL, steps=1, lr=1e-3, views=["mirrored"])
    train_prior(recipe)
    found = prior(out)
    rows = list(TokenStore(out / "tokens").rows("test", ["clip_id", "view_id"]))
    wanted = [row["clip_id"] for row in rows if row["view_id"] == "mirrored"]
    assert len(wanted) == 12 and [row["item"] for row in found.clips] == wanted
    samples = {row["name"]: row["samples"] for row in found.rows}
    assert samples == {"loss": 12, "position_entropy": 32, "loss_ratio": 12}


def test_crops_in_time_of_clips_with_sound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_learnable_run(tmp_path / "run", monkeypatch)
    model = SMALL | {"condition": "audio", "condition_length": 3, "condition_vocabulary": SOUNDS}
    for crop, fits in (([2, 2, 2], True), ([1, 4, 4], False)):
        recipe = recipe_of(out, model, steps=1, lr=1e-3, crop=crop)
        if fits:
            assert PriorTask(recipe, TokenStore(out / "tokens"), tmp_path).grid == (2, 2, 2)
            continue
        with pytest.raises(UsageError, match="crops in time do not go with the sound"):
            PriorTask(recipe, TokenStore(out / "tokens"), tmp_path)
