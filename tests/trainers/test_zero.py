"""Two ranks under ZeRO 0 to 3 take the steps of one process, and a checkpoint goes on under any number of processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from schemas.config import load_recipe
from schemas.errors import IntegrityError
from tests.trainers import planting
from tests.trainers.making import assert_same_steps, losses, prepare
from tests.trainers.tiny_task import launch, train
from trainers.tokenizer import train_tokenizer
from vtok.hardware import find_compiler

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built"),
]
STEPS, HALF = 52, 26
RUN: dict[str, Any] = {"steps": STEPS, "checkpoint_every": HALF, "validate_every": HALF}
STAGES = (0, 1, 2, 3)
TOKENIZER_STAGES = (1, 3)
TOLERANCE = 2e-6
"""Of losses, gradient norms and weights: sums over ranks are taken in another order."""


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process on the plain engine."""
    folder = tmp_path_factory.mktemp("one") / "prior"
    train(folder, **RUN)
    return folder


def tokenizer_recipe(inputs: Path, out: Path, **options: Any) -> Path:
    """A VQGAN that validates halfway, after its discriminators have joined."""
    prepare(inputs, out, "tokenizer", steps=6, checkpoint_every=6, validate_every=3, **options)
    path = out / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["tokenizer"]["loss"]["discriminator_start"] = 2
    for part in ("generator", "discriminator"):
        tree["tokenizer"]["train"][part]["lr"] = 1e-4
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def two(one: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two ranks: a run under each ZeRO stage, two that go on where one process was, and two of a tokenizer; and what
    rank 0 printed."""
    out = tmp_path_factory.mktemp("two")
    runs = [{"folder": str(out / f"zero-{stage}"), "engine": "deepspeed", "zero_stage": stage} for stage in STAGES]
    for stage in (1, 3):
        folder = half_done(one, out / f"continued-{stage}")
        runs.append({"folder": str(folder), "engine": "deepspeed", "zero_stage": stage})
    runs = [{**run, **RUN} for run in runs]
    for stage in TOKENIZER_STAGES:
        recipe = tokenizer_recipe(inputs, out / f"tokenizer-{stage}", engine="deepspeed", zero_stage=stage)
        runs.append({"recipe": str(recipe)})
    done = launch(runs, out / "runs.json")
    assert all(process.returncode == 0 for process in done), done[0].stderr + done[1].stderr
    assert "FutureWarning" not in done[0].stderr
    return out, done[0].stdout


def half_done(source: Path, folder: Path, step: int = HALF) -> Path:
    """A copy of a finished run that has lost everything after the checkpoint of `step`."""
    shutil.copytree(source, folder)
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    return folder


def assert_same(folder: Path, other: Path, *, losses_from: int = 1) -> None:
    """Losses and gradient norms step by step, and the exported weights, to TOLERANCE."""
    ours, theirs = losses(folder), losses(other)
    assert sorted(ours) == sorted(theirs) == list(range(1, STEPS + 1))
    for step in range(losses_from, STEPS + 1):
        assert ours[step] == pytest.approx(theirs[step], rel=TOLERANCE, abs=TOLERANCE), f"step {step}"
    a, b = (torch.load(path / "weights.pt", weights_only=True) for path in (folder, other))
    assert a.keys() == b.keys()
    assert all(float((a[key] - b[key]).abs().max()) <= TOLERANCE for key in a)


def test_one_process_learns(one: Path) -> None:
    rows = losses(one)
    assert rows[STEPS]["val"] < 0.5 < 2 < rows[1]["loss"], "losses that never fall would compare equal"


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_under_zero_match_one(one: Path, two: tuple[Path, str], stage: int) -> None:
    assert_same(two[0] / f"zero-{stage}", one)


def test_two_ranks_train_a_tokenizer_as_one(inputs: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    """Encoder, decoder, codebook and discriminators, whose norms and statistics span both ranks."""
    train_tokenizer(load_recipe(tokenizer_recipe(inputs, tmp_path / "one")))
    rows = losses(tmp_path / "one" / "tokenizer")
    assert "d_loss" in rows[6] and {"val_psnr", "adversarial"} <= rows[3].keys()
    for stage in TOKENIZER_STAGES:
        assert_same_steps(two[0] / f"tokenizer-{stage}", tmp_path / "one")


@pytest.mark.parametrize("stage", [1, 3])
def test_one_process_goes_on_as_two_under_zero(one: Path, two: tuple[Path, str], stage: int) -> None:
    out, said = two
    assert f"the checkpoint was of the plain engine; it was shared out anew for ZeRO stage {stage} on 2 ranks" in said
    assert_same(out / f"continued-{stage}", one)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_under_zero_go_on_as_one(
    one: Path, two: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], stage: int
) -> None:
    folder = half_done(two[0] / f"zero-{stage}", tmp_path / "prior")
    assert '"deepspeed"' in (folder / "_settings.json").read_text()
    train(folder, **RUN)
    said = capfd.readouterr().out
    assert f"resumed at step {HALF}" in said
    assert f"the checkpoint was of ZeRO stage {stage} on 2 ranks; it was shared out anew for the plain" in said
    assert not list(folder.rglob(".vtok-tmp-*")), "no conversion is left behind"
    assert_same(folder, one)


@pytest.mark.soak
def test_zero_goes_on_as_one_and_as_two_again(one: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    """Two ranks, then one under DeepSpeed from step 26, then two again from step 39, with changes of the stage."""
    path = {1: (1, 1), 2: (2, 3), 3: (3, 2), 0: (1, 0)}
    runs = []
    for stage, (then, _) in path.items():
        folder = half_done(two[0] / f"zero-{stage}", tmp_path / f"zero-{stage}")
        options = {**RUN, "checkpoint_every": HALF // 2, "keep_checkpoints": 9}
        runs.append({"folder": str(folder), "engine": "deepspeed", "zero_stage": then, **options})
    done = launch(runs, tmp_path / "one.json", ranks=1)
    assert done[0].returncode == 0, done[0].stderr
    for stage in path:
        assert_same(tmp_path / f"zero-{stage}", one)
    runs = []
    for stage, (_, last) in path.items():
        folder = half_done(tmp_path / f"zero-{stage}", tmp_path / f"again-{stage}", HALF + HALF // 2)
        runs.append({"folder": str(folder), "engine": "deepspeed", "zero_stage": last, **RUN})
    again = launch(runs, tmp_path / "two.json")
    assert all(process.returncode == 0 for process in again), again[0].stderr + again[1].stderr
    assert again[0].stdout.count("resumed at step 39") == len(path)
    for stage in path:
        assert_same(tmp_path / f"again-{stage}", one)


@pytest.mark.parametrize("stage", ["plain", *STAGES])
def test_a_program_in_a_checkpoint_is_refused_by_name(
    one: Path, two: tuple[Path, str], tmp_path: Path, stage: int | str
) -> None:
    """In each file in turn; the whole state is put together from all of them."""
    source = half_done(one if stage == "plain" else two[0] / f"zero-{stage}", tmp_path / "source")
    for folder, marker in planting.planted(source, tmp_path):
        with pytest.raises(IntegrityError, match=planting.ASKED) as caught:
            train(folder, **RUN)
        assert caught.value.at.startswith(str(folder)) and caught.value.hint
        assert not marker.exists()
        assert planting.runs(Path(caught.value.at), marker), "the test must plant what would run"


def test_deepspeed_itself_runs_no_program_in_a_checkpoint(two: tuple[Path, str], tmp_path: Path) -> None:
    """Two ranks load their own files of the layout that wrote them, and then what nobody has touched."""
    runs, markers = [], []
    for stage in STAGES:
        source = half_done(two[0] / f"zero-{stage}", tmp_path / f"zero-{stage}")
        for folder, marker in planting.planted(source, tmp_path):
            runs.append({"folder": str(folder), "engine": "deepspeed", "zero_stage": stage, **RUN})
            markers.append(marker)
    refused = len(runs)
    runs += [
        {"folder": str(tmp_path / f"zero-{stage}"), "engine": "deepspeed", "zero_stage": stage, **RUN}
        for stage in STAGES
    ]
    done = launch(runs, tmp_path / "runs.json")
    for process in done:
        assert process.stderr.count(f"it asks for {planting.ASKED}; only weights") == refused, process.stderr
    assert not any(marker.exists() for marker in markers)
    for stage in STAGES:
        ours, theirs = tmp_path / f"zero-{stage}", two[0] / f"zero-{stage}"
        assert losses(ours) == losses(theirs)
        a, b = (torch.load(path / "weights.pt", weights_only=True) for path in (ours, theirs))
        assert all(torch.equal(a[key], b[key]) for key in a), "what is sound goes on bit by bit"


def test_what_is_no_file_of_weights_is_refused(one: Path, tmp_path: Path) -> None:
    folder = half_done(one, tmp_path / "prior")
    checkpoint = next((folder / "checkpoints").iterdir())
    planting.bare(checkpoint / "prior" / "plain.pt", tmp_path / "ran")
    planting.seal(checkpoint)
    with pytest.raises(IntegrityError, match="it is no file of weights"):
        train(folder, **RUN)
    assert not (tmp_path / "ran").exists()


def test_no_checkpoint_holds_code(two: tuple[Path, str]) -> None:
    assert not list(two[0].rglob("*.py"))
