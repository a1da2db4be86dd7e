"""What the prior's training refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.card import with_checksum
from schemas.config import Recipe
from schemas.errors import UsageError
from tests.trainers.making import prepare
from trainers.prior import check_tokenizer, train_prior
from vtok import artefacts
from vtok.tokens.store import TokenStore


def test_a_store_of_another_tokenizer_is_refused_with_both_fingerprints(inputs: Path, tmp_path: Path) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior")
    path = recipe.folder("tokenizer") / "_vtok.json"
    card = json.loads(path.read_text())
    right, card["facts"]["fingerprint"] = card["facts"]["fingerprint"], "f" * 64
    path.write_text(json.dumps(with_checksum(card)))
    with pytest.raises(UsageError) as caught:
        train_prior(recipe)
    assert right in caught.value.what and "f" * 64 in caught.value.what
    assert caught.value.at == str(recipe.folder("tokens"))
    assert not recipe.folder("prior").exists()


def test_a_run_without_a_tokenizer_trusts_its_store(inputs: Path, tmp_path: Path) -> None:
    check_tokenizer(TokenStore(inputs / "tokens"), tmp_path / "none")


def test_labels_are_needed_for_a_conditional_prior(inputs: Path, tmp_path: Path) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior")
    path = recipe.folder("tokens") / "_vtok.json"
    card = json.loads(path.read_text())
    card["facts"]["classes"] = []
    path.write_text(json.dumps(with_checksum(card)))
    with pytest.raises(UsageError, match="the token store has no labels") as caught:
        train_prior(recipe)
    assert "prior.model.condition=none" in caught.value.hint


def test_an_unconditional_prior_has_no_classes(inputs: Path, tmp_path: Path) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior", steps=2)
    model = recipe.prior.model.model_copy(update={"condition": "none"})
    plain = recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"model": model})})
    card = train_prior(Recipe.model_validate(plain.plain()))
    assert card.facts["classes"] == []
    assert card.inputs["tokenizer"] == artefacts.load(inputs / "tokenizer").facts["fingerprint"]
