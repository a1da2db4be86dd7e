"""Slow steps are noticed, the threads timed again and the finding said; a run's numbers stay what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainers.making import losses, prepare, same_weights
from trainers import pace
from trainers.pace import Pace
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok.hardware import find_compiler, time_threads

TRAIN = {"tokenizer": train_tokenizer, "prior": train_prior}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def no_process_group_left() -> Iterator[None]:
    """DeepSpeed in this process begins one, and other tests are alone in theirs."""
    assert not torch.distributed.is_initialized()
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_steps_that_become_slow_are_noticed() -> None:
    now = [0.0]
    found = Pace("prior", 2, clock=lambda: now[0])
    usual = [found.slower(0.1) for _ in range(40)]
    noise = [found.slower(seconds) for seconds in (0.3, 0.1, 0.1, 0.1) * 10]
    assert usual + noise == [None] * 80, "single steps say nothing"
    slow = [ratio for ratio in map(found.slower, [0.25] * 60) if ratio is not None]
    assert len(slow) == 1 and pace.SLOW <= slow[0] <= 2.5, "once: that is what they take now"
    assert [found.slower(1.0) for _ in range(60)] == [None] * 60, "and not again at once"
    now[0] = 301.0
    assert (found.slower(1.0) or 0) > 3


@pytest.mark.parametrize(("times", "said"), [({1: 0.2, 2: 0.1}, False), ({1: 0.1, 2: 0.2}, True)])
def test_what_is_found_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], times: dict[int, float], said: bool
) -> None:
    monkeypatch.setattr(pace, "time_threads", lambda step: times)
    Pace("prior", 2).look_into(3.2, lambda: None)
    text = capfd.readouterr().err
    assert "steps take 3.2 times as long as before" in text and "2 threads stay" in text
    assert ("prior.train.threads=1" in text) == said


def test_timing_leaves_the_number_of_threads() -> None:
    torch.set_num_threads(2)
    seen = []
    times = time_threads(lambda: seen.append(torch.get_num_threads()))
    assert torch.get_num_threads() == 2
    assert set(times) == set(seen) and all(seconds >= 0 for seconds in times.values())


ENGINES = ["plain"]
ENGINES += ["deepspeed"] if find_compiler() is not None else []


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.deepspeed] * (name != "plain")) for name in ENGINES]
)
@pytest.mark.parametrize("name", ["tokenizer", "prior"])
def test_looking_into_slow_steps_changes_no_number(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, engine: str
) -> None:
    folders, looks = [], []
    monkeypatch.setattr("trainers.loop.choose_threads", lambda step: 1)
    real, ratios = Pace.look_into, iter([None, 2.0, None, None])
    for out in ("quiet", "busy"):
        if out == "busy":
            monkeypatch.setattr(Pace, "slower", lambda self, seconds: next(ratios))
            monkeypatch.setattr(Pace, "look_into", lambda *given: looks.append(given[1]) or real(*given))
        recipe = prepare(inputs, tmp_path / out, name, steps=4, engine=engine, threads="auto")
        TRAIN[name](recipe)
        folders.append(recipe.folder(name))
    assert looks == [2.0]
    assert losses(folders[0]) == losses(folders[1])
    assert same_weights(*folders)


def test_a_number_of_threads_that_is_asked_for_holds_from_there_on(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_prior(prepare(inputs, tmp_path / "run", "prior", steps=4, threads=1))
    folder = tmp_path / "run" / "prior"
    (folder / "_vtok.json").unlink()
    from schemas.config import load_recipe

    recipe = load_recipe(tmp_path / "run" / "recipe.yaml", ["prior.train.threads=2"])
    train_prior(recipe)
    assert "2 threads from here on, 1 until now" in capfd.readouterr().err
    assert json.loads((folder / "_settings.json").read_text())["threads"] == 2
