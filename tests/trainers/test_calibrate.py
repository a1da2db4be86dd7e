"""--calibrate times the alternatives, names the fastest and leaves the run as it was."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config.train import TrainConfig
from tests.pipelines.making import digests
from tests.trainers.making import prepare
from trainers import calibrate as module
from trainers.calibrate import Timing, alternatives, calibrate


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["tokenizer", "prior"])
def test_every_alternative_is_timed_and_nothing_is_written(
    inputs: Path, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepare(inputs, tmp_path / "run", kind)
    before = digests(tmp_path)
    monkeypatch.setattr(module, "find_compiler", lambda: None)
    real, made = module._make_task, []

    def make(*arguments: Any) -> Any:
        assert all(earlier() is None for earlier in made), "an alternative has the memory to itself"
        task = real(*arguments)
        made.append(weakref.ref(task))
        return task

    monkeypatch.setattr(module, "_make_task", make)
    lines = list(calibrate(kind, recipe, steps=2))
    assert len(made) > 2 and digests(tmp_path) == before
    assert "as in the recipe" in lines[1] and "ms/step" in lines[1]
    assert any("checkpoint_activations=true" in line and "ms/step" in line for line in lines)
    assert any("accumulate=2" in line for line in lines)
    assert lines[-1].startswith((f"fastest: {kind}.train.", "the recipe's own settings are the fastest"))


def test_the_fastest_of_each_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(kind: str, recipe: object, settings: dict[str, Any], steps: int) -> Timing:
        if settings.get("accumulate") == 4:
            return Timing(settings, None, problem="no memory left")
        value = 1.0 - 0.5 * (settings.get("threads") == 1) + 0.1 * settings.get("checkpoint_activations", False)
        return Timing(settings, value, unit="tok", units=100)

    class Section:
        train = TrainConfig(batch_size=4)

    class FakeRecipe:
        prior = Section

    monkeypatch.setattr(module, "_time", seconds)
    monkeypatch.setattr(module, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "find_compiler", lambda: "/usr/bin/g++")
    lines = list(calibrate("prior", FakeRecipe()))  # type: ignore[arg-type]
    assert lines[-1] == "fastest: prior.train.threads=1"
    assert any(line.split()[:2] == ["threads=1", "500.0"] and "200 tok/s" in line for line in lines)
    assert any("threads=1 compile=true" in line for line in lines), "what was fastest is kept for what follows"
    assert any("accumulate=4" in line and "no memory left" in line for line in lines)


def test_what_is_tried_depends_on_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_compiler", lambda: None)
    tried = dict(alternatives(TrainConfig(batch_size=6, accumulate=2, checkpoint_activations=True)))
    assert tried["checkpoint_activations"] == [False]
    assert tried["accumulate"] == [1], "parts that divide the batch, and are not the recipe's"
    assert "engine" not in tried and "compile" not in tried
