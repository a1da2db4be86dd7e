"""DeepSpeed takes the plain engine's steps, survives a kill, and is done without where it cannot start."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.pipelines.making import vtok
from tests.trainers.making import losses, prepare, weights
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok.hardware import find_compiler

pytestmark = [pytest.mark.deepspeed, pytest.mark.timeout(1800)]
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built")
STEPS = 20
TRAIN = {"tokenizer": train_tokenizer, "prior": train_prior}


@pytest.fixture(scope="module")
def plain(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """20 steps of both trainings on the plain engine."""
    found = {}
    for name, train in TRAIN.items():
        recipe = prepare(inputs, tmp_path_factory.mktemp("plain") / name, name, steps=STEPS)
        train(recipe)
        found[name] = recipe.folder(name)
    return found


def assert_equal(folder: Path, other: Path) -> None:
    """Losses to 1e-6 at every step, exported weights to 1e-6."""
    ours, theirs = losses(folder), losses(other)
    assert sorted(ours) == sorted(theirs) == list(range(1, STEPS + 1))
    for step, row in theirs.items():
        assert ours[step].keys() == row.keys()
        assert ours[step] == pytest.approx(row, rel=1e-6, abs=1e-6), f"step {step}"
    a, b = weights(folder), weights(other)
    assert a.keys() == b.keys()
    assert all((a[key].double() - b[key].double()).abs().max() <= 1e-6 for key in a)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "zero_stage", "kill"),
    [("tokenizer", 0, False), ("tokenizer", 1, True), ("prior", 0, True), ("prior", 1, False)],
)
def test_equals_the_plain_engine(
    inputs: Path, plain: dict[str, Path], tmp_path: Path, name: str, zero_stage: int, kill: bool
) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    folder = prepare(inputs, out, name, steps=STEPS, engine="deepspeed", zero_stage=zero_stage).folder(name)
    if name == "tokenizer":
        assert "d_loss" in losses(plain[name])[STEPS], "the discriminators must have joined"
    if kill:
        point = f"{name}:checkpoint-12:after_rename"
        killed = vtok("train", name, out / "recipe.yaml", timeout=800, VTOK_CRASH_AT=point, VTOK_CRASH_MARK=str(mark))
        assert mark.exists(), killed.stderr
        assert killed.returncode == -signal.SIGKILL
    done = vtok("train", name, out / "recipe.yaml", timeout=800)
    assert done.returncode == 0, done.stderr
    assert f"{name}: engine deepspeed" in done.stdout
    assert ("resumed at step 12" in done.stdout) == kill
    assert_equal(folder, plain[name])


def test_without_a_compiler_plain_torch_runs_and_says_so(inputs: Path, plain: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    folder = prepare(inputs, out, "prior", steps=STEPS, engine="deepspeed").folder("prior")
    (tmp_path / "bin").mkdir()
    done = vtok("train", "prior", out / "recipe.yaml", PATH=str(tmp_path / "bin"), CXX="")
    assert done.returncode == 0, done.stderr
    assert "plain torch instead of DeepSpeed (its op needs a C++ compiler and there is none)" in done.stderr
    assert "prior: engine plain" in done.stdout
    assert losses(folder) == losses(plain["prior"])
    shutil.rmtree(out)
