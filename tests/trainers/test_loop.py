"""A training that was killed and resumed is the training that was left alone, bit by bit. Plain engine, in-process
where nothing has to die."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from schemas.card import with_checksum
from schemas.config import Recipe
from schemas.errors import UsageError, VtokError
from tests.pipelines.making import REPOSITORY, digests, vtok
from tests.trainers.making import losses, prepare, same_weights, weights
from trainers import loop
from trainers import tokenizer as tokenizer_module
from trainers.prior import PriorTask, train_prior
from trainers.tokenizer import TokenizerTask, train_tokenizer
from vtok import artefacts
from vtok.tokens.store import TokenStore

pytestmark = pytest.mark.timeout(600)
TRAIN = {"tokenizer": train_tokenizer, "prior": train_prior}


@pytest.fixture(autouse=True)
def threads() -> object:
    """The loop sets the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["tokenizer", "prior"])
def undisturbed(request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact's folder of a run of 10 steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    recipe = prepare(inputs, out, request.param)
    TRAIN[request.param](recipe)
    return recipe.folder(request.param)


def test_a_finished_run(undisturbed: Path) -> None:
    name = undisturbed.name
    card = artefacts.load(undisturbed, name)  # type: ignore[arg-type]
    rows = losses(undisturbed)
    assert sorted(rows) == list(range(1, 11))
    assert card.counts["steps"] == 10
    assert all(row["loss"] > 0 and row["lr"] > 0 and row["gnorm"] > 0 for row in rows.values())
    assert weights(undisturbed)
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]
    if name == "tokenizer":
        assert (undisturbed / "previews" / "step-00000010.gif").exists()
        assert all(("d_loss" in row) == (step > 5) for step, row in rows.items()), "discriminators join at step 5"
        assert "val_psnr" in rows[10]
    else:
        assert "val" in rows[10]
        assert rows[10]["loss"] < rows[1]["loss"]


def test_running_again_changes_nothing(undisturbed: Path) -> None:
    from schemas.config import load_recipe

    before = digests(undisturbed)
    recipe = load_recipe(undisturbed.parent / "recipe.yaml")
    assert TRAIN[undisturbed.name](recipe) == artefacts.load(undisturbed)
    assert digests(undisturbed) == before


KILLS = {"checkpoint-8:before_rename": 4, "checkpoint-8:after_rename": 8, "before_card": 10}
"""Crash points, and the step from which the run must go on."""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["some", "every"])
def test_killed_and_resumed(inputs: Path, undisturbed: Path, tmp_path: Path, every: bool) -> None:
    """One training, killed at one point after the other; without `every` each kind at points of its own."""
    name = undisturbed.name
    out = tmp_path / "run"
    folder = prepare(inputs, out, name).folder(name)
    command = ("train", name, out / "recipe.yaml")
    points = list(KILLS) if every else list(KILLS)[::2] if name == "tokenizer" else list(KILLS)[1:2]
    resumed = ""
    for point in points:
        mark = tmp_path / point.replace(":", "-")
        killed = vtok(*command, VTOK_CRASH_AT=f"{name}:{point}", VTOK_CRASH_MARK=str(mark))
        assert mark.exists(), killed.stderr
        assert killed.returncode == -signal.SIGKILL
        assert resumed in killed.stdout
        assert not (folder / "_vtok.json").exists()
        resumed = f"resumed at step {KILLS[point]}"
    again = vtok(*command)
    assert again.returncode == 0, again.stderr
    assert resumed in again.stdout
    assert losses(folder) == losses(undisturbed)
    assert same_weights(folder, undisturbed)
    assert artefacts.load(folder).fingerprint == artefacts.load(undisturbed).fingerprint
    assert not list(folder.rglob(".vtok-tmp-*")), "nothing half-written is left"


def test_ctrl_c_saves_and_the_run_goes_on(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = prepare(inputs, out, "prior", steps=100_000, checkpoint_every=100_000, validate_every=100_000)
    folder = recipe.folder("prior")
    process = subprocess.Popen(
        [sys.executable, "-m", "vtok", "train", "prior", str(out / "recipe.yaml")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = folder / "metrics.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(UsageError, match="another job is at work"):
        train_prior(recipe)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors and "saving" in errors
    checkpoints = list((folder / "checkpoints").iterdir())
    assert len(checkpoints) == 1
    step = int(checkpoints[0].name.removeprefix("step-"))
    assert max(losses(folder)) == step > 3, "the last finished step was saved"


def test_an_interrupted_run_in_this_process_resumes(
    inputs: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of step 7: that step ends and is saved."""
    name = undisturbed.name
    recipe = prepare(inputs, tmp_path / "run", name, checkpoint_every=100)
    from trainers import prior

    task = {"tokenizer": TokenizerTask, "prior": prior.PriorTask}[name]
    real = task.train_step

    def step_and_signal(self: object, batch: object, step: int) -> dict[str, float]:
        values = real(self, batch, step)  # type: ignore[arg-type]
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr(task, "train_step", step_and_signal)
    with pytest.raises(KeyboardInterrupt):
        TRAIN[name](recipe)
    monkeypatch.undo()
    folder = recipe.folder(name)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000007"]
    TRAIN[name](recipe)
    assert losses(folder) == losses(undisturbed)
    assert same_weights(folder, undisturbed)


def test_a_damaged_checkpoint_costs_steps_not_the_run(
    inputs: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.pipelines.making import flip

    name = undisturbed.name
    recipe = prepare(inputs, tmp_path / "run", name)
    folder = recipe.folder(name)
    TRAIN[name](recipe)
    (folder / "_vtok.json").unlink()
    for path in (folder / "checkpoints" / "step-00000010").rglob("*.pt"):
        flip(path)
    TRAIN[name](recipe)
    output = capfd.readouterr()
    assert "step-00000010 is skipped" in output.err and "resumed at step 8" in output.out
    assert losses(folder) == losses(undisturbed)
    assert same_weights(folder, undisturbed)


def test_a_checkpoint_holds_the_loaders_place(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    name = undisturbed.name
    state = json.loads((undisturbed / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["task"]["loader"]["step"] == 8
    recipe = prepare(inputs, tmp_path / "run", name)
    TRAIN[name](recipe)
    folder = recipe.folder(name)
    (folder / "_vtok.json").unlink()
    path = folder / "checkpoints" / "step-00000010" / "state.json"
    state = json.loads(path.read_text())
    state["task"]["loader"]["seed"] += 1
    path.write_text(json.dumps(with_checksum(state)))
    (folder / "checkpoints" / "step-00000008").rename(folder / "elsewhere")
    longer = prepare_longer(recipe, name, folder)
    with pytest.raises(UsageError, match="seed is 0 here and 1 in the state"):
        TRAIN[name](longer)


def prepare_longer(recipe: Recipe, name: str, folder: Path) -> Recipe:
    """The same run with one more step, as if it had been planned so."""
    tree = recipe.plain()
    tree[name]["train"]["steps"] += 1
    plan = json.loads((folder / "_plan.json").read_text())
    plan["config"]["train"]["steps"] += 1
    (folder / "_plan.json").write_text(json.dumps(with_checksum(plan)))
    path = folder / "checkpoints" / "step-00000010" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(with_checksum({**state, "plan": artefacts.load_plan(folder).fingerprint})))
    return Recipe.model_validate(tree)


def test_never_starts_anew(inputs: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = undisturbed.name
    recipe = prepare(inputs, tmp_path / "run", name)
    TRAIN[name](recipe)
    (recipe.folder(name) / "_vtok.json").unlink()
    TRAIN[name](recipe, resume="never")
    assert "resumed" not in capfd.readouterr().out
    assert same_weights(recipe.folder(name), undisturbed)


def test_a_loss_that_is_no_number_stops_the_run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior")
    from trainers import prior

    real = prior.PriorTask.train_step

    def poisoned(self: prior.PriorTask, batch: object, step: int) -> dict[str, float]:
        if step == 5:
            with torch.no_grad():
                next(iter(self.prior.parameters())).fill_(float("nan"))
        return real(self, batch, step)  # type: ignore[arg-type]

    monkeypatch.setattr(prior.PriorTask, "train_step", poisoned)
    with pytest.raises(VtokError, match="the loss is nan at step 6") as caught:
        train_prior(recipe)
    assert "step 4" in caught.value.hint and "learning rate" in caught.value.hint
    assert [p.name for p in (recipe.folder("prior") / "checkpoints").iterdir()] == ["step-00000004"]
    assert not (recipe.folder("prior") / "_vtok.json").exists()


def test_threads_are_chosen_once(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = prepare(inputs, tmp_path / "run", "prior", threads="auto")
    timed: list[int] = []

    def choose(step: object) -> int:
        step()  # type: ignore[operator]
        timed.append(1)
        return 1

    monkeypatch.setattr(loop, "choose_threads", choose)
    train_prior(recipe)
    folder = recipe.folder("prior")
    assert json.loads((folder / "_settings.json").read_text()) == {"engine": "plain", "threads": 1}
    (folder / "_settings.json").write_text('{"engine": "plain", "threads": 2}')
    (folder / "_vtok.json").unlink()
    train_prior(recipe)
    assert timed == [1], "a resumed run does not time again"
    assert torch.get_num_threads() == 2
    assert json.loads((folder / "_settings.json").read_text())["threads"] == 2


def test_timing_changes_nothing(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    """With `threads: auto` a step is timed on a copy: weights, statistics and codebook stay as they were."""
    name = undisturbed.name
    recipe = prepare(inputs, tmp_path / "run", name)
    task = (
        TokenizerTask(recipe, tmp_path)
        if name == "tokenizer"
        else PriorTask(recipe, TokenStore(recipe.folder("tokens")), tmp_path)
    )
    modules = [engine.module for engine in task.build("plain").values()]
    before = [{key: value.clone() for key, value in module.state_dict().items()} for module in modules]
    task.timing_step(next(task.batches(0)))
    for module, old in zip(modules, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())


def test_discriminators_get_no_gradients_in_the_generators_phase(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepare(inputs, tmp_path / "run", "tokenizer")
    task = TokenizerTask(recipe, tmp_path)
    task.build("plain")
    seen: list[list[bool]] = []
    real = tokenizer_module.discriminator_loss

    def look(*arguments: object, **options: object) -> object:
        seen.append([p.grad is None for p in task.discriminators.parameters()])
        assert all(p.requires_grad for p in task.discriminators.parameters())
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenizer_module, "discriminator_loss", look)
    before = [p.detach().clone() for p in task.discriminators.parameters()]
    for step, batch in zip(range(4, 8), task.batches(4), strict=False):
        task.train_step(batch, step)
        if step == 4:
            assert all(torch.equal(a, b) for a, b in zip(before, task.discriminators.parameters(), strict=True))
    assert len(seen) == 3 and all(itertools.chain(*seen)), "steps 5, 6, 7: no gradient before their own phase"
    assert not all(torch.equal(a, b) for a, b in zip(before, task.discriminators.parameters(), strict=True))


def test_a_token_store_that_vanishes(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read already is in the node's cache; the next validation wants the store."""
    recipe = prepare(inputs, tmp_path / "run", "prior", validate_every=3)
    real = PriorTask.train_step

    def lose(self: PriorTask, batch: object, step: int) -> dict[str, float]:
        if step == 1:
            shutil.rmtree(recipe.folder("tokens"))
        return real(self, batch, step)  # type: ignore[arg-type]

    monkeypatch.setattr(PriorTask, "train_step", lose)
    with pytest.raises(VtokError, match="the token store is gone") as caught:
        train_prior(recipe)
    assert caught.value.at == str(recipe.folder("tokens"))
    assert "put it back" in caught.value.hint and "delete" not in caught.value.hint


def test_resume_from_a_checkpoint_of_another_kind(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    other = "prior" if undisturbed.name == "tokenizer" else "tokenizer"
    recipe = prepare(inputs, tmp_path / "run", other)
    path = undisturbed / "checkpoints" / "step-00000008"
    with pytest.raises(UsageError, match=f"a checkpoint of a {undisturbed.name}, not of a {other}"):
        TRAIN[other](recipe, resume=str(path))


def test_too_few_clips_for_a_batch(inputs: Path, tmp_path: Path) -> None:
    for name, train in TRAIN.items():
        with pytest.raises(UsageError, match="fewer than one batch of 64") as caught:
            train(prepare(inputs, tmp_path / name, name, batch_size=64))
        assert "batch_size" in caught.value.hint


def test_a_full_disk_stops_the_run_and_more_room_resumes_it(
    inputs: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.engine import PlainEngine

    name = undisturbed.name
    recipe = prepare(inputs, tmp_path / "run", name)
    real, saves = PlainEngine.save, []

    def full(self: PlainEngine, folder: Path) -> None:
        saves.append(folder)
        if len(saves) > (2 if name == "tokenizer" else 1):
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(PlainEngine, "save", full)
    with pytest.raises(VtokError, match="No space left on device"):
        TRAIN[name](recipe)
    monkeypatch.undo()
    assert [p.name for p in (recipe.folder(name) / "checkpoints").iterdir()] == ["step-00000004"]
    TRAIN[name](recipe)
    assert same_weights(recipe.folder(name), undisturbed)
