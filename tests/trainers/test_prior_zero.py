"""The real priors: two ranks under ZeRO take the steps of one process, and a killed training goes on bit by bit."""

from __future__ import annotations

import math
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.making import losses, same_weights
from tests.trainers.priors import CODES, make_learnable_run, recipe_of
from tests.trainers.tiny_task import launch
from trainers.prior import train_prior
from vtok.hardware import find_compiler

pytestmark = [pytest.mark.soak, pytest.mark.deepspeed, pytest.mark.timeout(3000)]
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built")
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 24}
LABEL = {"condition": "label", "condition_drop": 0.3}
STILL = {"dropout": 0.0, "attention_dropout": 0.0}
# Each rank has a dropout of its own, so there is none. What a clip is shown is drawn clip by clip.
KINDS: dict[str, dict[str, Any]] = {
    "gpt": SMALL | LABEL,
    "gpt-rope": SMALL | {"positions": "rope", "qk_norm": True},
    "videogpt": SMALL | LABEL | STILL | {"kind": "videogpt"},
    "videogpt-sparse": SMALL | {"kind": "videogpt", "attention": "sparse", "dropout": 0.0},
    "mebt": SMALL | LABEL | STILL | {"kind": "mebt", "n_layer": 5, "latents": 4, "budget": 9, "t_prior": "uniform"},
}
STEPS = 50
TOLERANCE = 2e-5
"""Of losses and gradient norms, relative: sums over ranks are taken in another order, and Adam, which divides by the
size of a gradient, carries the last digits of the smallest ones into the weights."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_learnable_run(tmp_path / "data", monkeypatch)


def recipe_at(data: Path, out: Path, kind: str, **train: Any) -> Any:
    """A run of its own with the same data."""
    for stage in ("tokenizer", "tokens"):
        shutil.copytree(data / stage, out / stage)
    options = {"steps": STEPS, "lr": 2e-3, "log_every": 1, "tensorboard": False, "validate_every": 25}
    return recipe_of(out, KINDS[kind], **{**options, **train})


@needs_compiler
def test_two_ranks_under_zero_match_one_for_every_prior(data: Path, tmp_path: Path) -> None:
    runs = []
    for kind in KINDS:
        train_prior(recipe_at(data, tmp_path / f"{kind}-one", kind))
        for stage in (1, 3):
            recipe = recipe_at(data, tmp_path / f"{kind}-{stage}", kind, engine="deepspeed", zero_stage=stage)
            runs.append({"recipe": recipe.plain()})
    done = launch(runs, tmp_path / "runs.json", script="tests.trainers.prior_ranks", timeout=2400)
    assert all(process.returncode == 0 for process in done), done[0].stderr[-4000:] + done[1].stderr[-4000:]
    for kind in KINDS:
        one = losses(tmp_path / f"{kind}-one" / "prior")
        assert sorted(one) == list(range(1, STEPS + 1))
        assert one[STEPS]["val"] < 0.9 * math.log(CODES), "losses that never fall would compare equal"
        for stage in (1, 3):
            two = losses(tmp_path / f"{kind}-{stage}" / "prior")
            assert sorted(two) == sorted(one)
            for step, row in one.items():
                assert two[step] == pytest.approx(row, rel=TOLERANCE, abs=TOLERANCE), f"{kind}, stage {stage}, {step}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_killed_in_a_random_step_and_resumed_is_bit_equal(data: Path, tmp_path: Path, kind: str) -> None:
    """Dropout is on: its draws are those of the step."""
    steps = 20
    options = {"steps": steps, "checkpoint_every": 3, "validate_every": 10, "ema_decay": 0.9}
    whole, cut = (recipe_at(data, tmp_path / name, kind, **options) for name in ("whole", "cut"))
    if kind != "videogpt-sparse":
        dropout = {"dropout": 0.2, "attention_dropout": 0.1}
        whole, cut = (with_model(recipe, dropout) for recipe in (whole, cut))
    train_prior(whole)
    for step in sorted(random.Random(kind).sample(range(1, steps), 2)):
        run = {"recipe": cut.plain(), "dies_at": step}
        (killed,) = launch([run], tmp_path / "run.json", ranks=1, script="tests.trainers.prior_ranks")
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-4000:]
    train_prior(cut)
    assert losses(cut.folder("prior")) == losses(whole.folder("prior"))
    assert same_weights(cut.folder("prior"), whole.folder("prior"))


def with_model(recipe: Any, changes: dict[str, Any]) -> Any:
    model = recipe.prior.model.model_copy(update=changes)
    return recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"model": model})})
