"""Training a tokenizer whose codes come from signs or roundings instead of a codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config import Recipe
from tests.trainers.making import losses, prepare
from trainers.tokenizer import train_tokenizer
from vtok.tokenizers.load import load_tokenizer


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The loop sets the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{"quantizer": "lfq", "bits": 5}, {"quantizer": "fsq", "levels": [4, 4, 3]}])
def test_it_trains_and_loads(inputs: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    recipe = prepare(inputs, tmp_path / "run", "tokenizer", steps=6, checkpoint_every=6, validate_every=6)
    tree = recipe.plain()
    size = {key: tree["tokenizer"]["model"][key] for key in ("kind", "n_hiddens", "downsample")}
    tree["tokenizer"]["model"] = {**size, **options}
    recipe = Recipe.model_validate(tree)
    assert Recipe.model_validate(recipe.plain()) == recipe
    card = train_tokenizer(recipe)
    rows = losses(recipe.folder("tokenizer"))
    assert all(math.isfinite(row["loss"]) for row in rows.values())
    if options["quantizer"] == "lfq":  # the entropy loss is among them
        assert any(row["commit"] != 0 for row in rows.values())
    tokenizer = load_tokenizer(recipe.folder("tokenizer"))
    assert tokenizer.codebook_size == card.facts["codebook_size"] == recipe.tokenizer.model.n_codes
    assert tokenizer.fingerprint == card.facts["fingerprint"]
