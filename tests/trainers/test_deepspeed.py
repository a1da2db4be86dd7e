"""DeepSpeed takes the plain engine's steps, survives a kill, and is done without where it cannot start."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from tests.pipelines.making import python, vtok
from tests.trainers.making import losses, prepare, weights
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok.hardware import find_compiler

pytestmark = [pytest.mark.deepspeed, pytest.mark.timeout(1800)]
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built")
STEPS = 20
KILLED = {("tokenizer", 1), ("prior", 0)}
BETWEEN = "--- the next command ---"
ALL = f"""
import json, sys
from vtok.cli import main
for command in json.loads(sys.argv[1]):
    print({BETWEEN!r}, flush=True)
    code = main(command)
    if code:
        sys.exit(code)
"""
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


@pytest.fixture(scope="module")
def deep(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Path, str]]:
    """20 steps of both trainings under ZeRO 0 and 1, and what they printed. Those of KILLED died on the way; the last
    command of each runs in one process with the others'."""
    out = tmp_path_factory.mktemp("deep")
    folders, commands = {}, []
    for name in TRAIN:
        for stage in (0, 1):
            run, mark = out / f"{name}-{stage}", out / f"{name}-{stage}-mark"
            recipe = prepare(inputs, run, name, steps=STEPS, engine="deepspeed", zero_stage=stage)
            folders[name, stage] = recipe.folder(name)
            commands.append(["train", name, str(run / "recipe.yaml")])
            if (name, stage) in KILLED:
                crash = {"VTOK_CRASH_AT": f"{name}:checkpoint-12:after_rename", "VTOK_CRASH_MARK": str(mark)}
                killed = vtok(*commands[-1], timeout=800, **crash)
                assert mark.exists(), killed.stderr
                assert killed.returncode == -signal.SIGKILL
    done = python("-c", ALL, json.dumps(commands), timeout=800)
    assert done.returncode == 0, done.stderr
    return dict(zip(folders, zip(folders.values(), done.stdout.split(BETWEEN)[1:], strict=True), strict=True))


@needs_compiler
@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("name", list(TRAIN))
def test_equals_the_plain_engine(
    plain: dict[str, Path], deep: dict[tuple[str, int], tuple[Path, str]], name: str, zero_stage: int
) -> None:
    folder, said = deep[name, zero_stage]
    if name == "tokenizer":
        assert "d_loss" in losses(plain[name])[STEPS], "the discriminators must have joined"
    assert f"{name}: engine deepspeed" in said
    assert ("resumed at step 12" in said) == ((name, zero_stage) in KILLED)
    assert_equal(folder, plain[name])


@needs_compiler
@pytest.mark.soak
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_the_adaptive_weight_is_that_of_the_plain_engine(inputs: Path, tmp_path: Path, zero_stage: int) -> None:
    """It asks for gradients in the middle of a step, and no stage may take them for the step's own."""
    folders = []
    for engine in ("plain", "deepspeed"):
        prepare(inputs, tmp_path / engine, "tokenizer", steps=STEPS, engine=engine, zero_stage=zero_stage)
        path = tmp_path / engine / "recipe.yaml"
        tree = yaml.safe_load(path.read_text())
        tree["tokenizer"]["loss"] |= {"gan_balance": "adaptive", "discriminator_start": 4}
        path.write_text(yaml.safe_dump(tree))
        done = vtok("train", "tokenizer", path, timeout=800)
        assert done.returncode == 0, done.stderr
        assert f"tokenizer: engine {engine}" in done.stdout
        folders.append(tmp_path / engine / "tokenizer")
    assert losses(folders[0])[STEPS]["gan_lambda"] > 0
    assert_equal(*folders)


def test_without_a_compiler_plain_torch_runs_and_says_so(
    inputs: Path,
    plain: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior", steps=STEPS, engine="deepspeed")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CXX", "")
    train_prior(recipe)
    said = capfd.readouterr()
    assert "plain torch instead of DeepSpeed (its op needs a C++ compiler and there is none)" in said.err
    assert "prior: engine plain" in said.out
    assert losses(recipe.folder("prior")) == losses(plain["prior"])
