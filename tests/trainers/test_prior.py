"""What the prior's training refuses."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from schemas.card import with_checksum
from schemas.config import Recipe
from schemas.errors import UsageError
from tests.trainers.making import prepare
from trainers.prior import PriorTask, check_tokenizer, train_prior
from vtok import artefacts
from vtok.cli import main
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import RowGroup, TokenStore


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
    keys = artefacts.load_plan(recipe.folder("prior")).config["train"].keys()
    assert not {"order", "cache_gb", "workers"} & keys, "plans are those from before these options"
    assert card.inputs["tokenizer"] == artefacts.load(inputs / "tokenizer").facts["fingerprint"]


def test_before_its_first_step_a_prior_reads_no_codes_but_those_of_its_batch(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ranks that write no logs never read what a validation is compared with."""
    recipe = prepare(inputs, tmp_path / "run", "prior")
    store = TokenStore(recipe.folder("tokens"))
    read: list[list[str] | None] = []
    real = TokenStore.read

    def reading(self: TokenStore, group: RowGroup, columns: list[str] | None = None) -> pa.Table:
        read.append(columns)
        return real(self, group, columns)

    monkeypatch.setattr(TokenStore, "read", reading)
    for rank in (0, 1):
        monkeypatch.setattr("trainers.prior.rank", lambda rank=rank: rank)
        monkeypatch.setattr("trainers.prior.world_size", lambda: 2)
        (tmp_path / str(rank)).mkdir()
        task = PriorTask(recipe, store, tmp_path / str(rank))
        task.build("plain")
        next(task.batches(0))
        assert read == []
        assert ("position_entropy" in task.validate(0)) == (rank == 0)
        assert (["codes"] in read) == (rank == 0)
        read.clear()


def test_a_store_larger_than_the_cache_is_trained_on_by_parts(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _with(prepare(inputs, tmp_path / "run", "prior", steps=2), cache_gb=2**-23, workers=1)
    with pytest.raises(UsageError, match="the cache holds 128") as caught:
        train_prior(recipe)
    options = {
        name: yaml.safe_load(value) for name, value in re.findall(r"prior.train.(order)=(\w+)", caught.value.hint)
    }
    assert options == {"order": "parts"} and "prior.train.cache_gb" in caught.value.hint
    shutil.rmtree(recipe.folder("prior"))
    recipe = _with(recipe, **options)
    train_prior(recipe)
    train = artefacts.load_plan(recipe.folder("prior")).config["train"]
    assert train["order"] == "parts" and not {"cache_gb", "workers"} & train.keys()
    store = TokenStore(recipe.folder("tokens"))
    loader = TokenLoader(store, "train", 4, seed=recipe.seed, order="parts")
    assert loader.source.identity() == _state(recipe)
    capsys.readouterr()
    for step, batch in enumerate(itertools.islice(loader.forever(), 6)):
        assert main(["tokens", "at", str(tmp_path / "run"), "--step", str(step), "--json"]) == 0
        assert [clip["clip_id"] for clip in json.loads(capsys.readouterr().out)["clips"]] == batch.clip_ids


def _with(recipe: Recipe, **train: Any) -> Recipe:
    tree = recipe.plain()
    tree["prior"]["train"] |= train
    return Recipe.model_validate(tree)


def _state(recipe: Recipe) -> dict[str, Any]:
    """What the last checkpoint says of the loader, without the step."""
    (path,) = recipe.folder("prior").glob("**/state.json")
    return {key: value for key, value in json.loads(path.read_text())["task"]["loader"].items() if key != "step"}


def test_beside_a_gpu_batches_are_pinned_and_read_ahead(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior")
    store = TokenStore(recipe.folder("tokens"))
    for gpu in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr("trainers.prior.cpu_count", lambda: 2)
        task = PriorTask(recipe, store, tmp_path)
        assert (task.loader.pin, task.loader.workers, task.loader.source.order) == (gpu, 2 * gpu, "rows")
        assert task.loader.source.cache.limit == 64 << 30
