"""Checkpoints are whole or not there, and are verified before they are trusted."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from schemas.card import with_checksum
from schemas.config.train import OptimConfig
from schemas.errors import UsageError, VtokError
from tests.pipelines.making import digests, flip
from trainers import checkpoint
from trainers.engine import PlainEngine

PLAN = "p" * 64


def engine(value: float = 0.0, width: int = 4) -> PlainEngine:
    module = torch.nn.Linear(width, width)
    torch.nn.init.constant_(module.weight, value)
    torch.nn.init.zeros_(module.bias)
    return PlainEngine(module, torch.optim.Adam(module.parameters()), OptimConfig())


def save(run: Path, step: int, *, plan: str = PLAN, kind: str = "prior", keep: int = 2, width: int = 4) -> Path:
    return checkpoint.save(run, kind, step, {"e": engine(float(step), width)}, {"plan": plan}, keep)


def value_of(path: Path) -> float:
    found = engine(-1.0)
    found.load(path / "e")
    return float(found.module.weight.detach()[0, 0])


def test_the_newest_is_found(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path, "auto", "prior", PLAN) is None
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert checkpoint.list_steps(tmp_path) == [10, 15], "only the newest two are kept"
    found = checkpoint.find(tmp_path, "auto", "prior", PLAN)
    assert found is not None
    path, state = found
    assert (path.name, state["step"], state["kind"]) == ("step-00000015", 15, "prior")
    assert value_of(path) == 15
    assert checkpoint.find(tmp_path, "never", "prior", PLAN) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "lost", "state", "no state"])
def test_a_damaged_one_is_skipped_and_named(tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    data = newest / "e" / "plain.pt"
    match damage:
        case "flip":
            flip(data)
        case "cut":
            data.write_bytes(data.read_bytes()[:-1])
        case "lost":
            data.unlink()
        case "state":
            (newest / "state.json").write_text("{")
        case "no state":
            (newest / "state.json").unlink()
    found = checkpoint.find(tmp_path, "auto", "prior", PLAN)
    assert found is not None and found[0].name == "step-00000005"
    assert value_of(found[0]) == 5
    assert "step-00000010 is skipped" in capfd.readouterr().err
    with pytest.raises(UsageError, match="not a sound checkpoint"):
        checkpoint.find(tmp_path, str(newest), "prior", PLAN)


def test_another_plans_checkpoint_is_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 5, plan="q" * 64)
    assert checkpoint.find(tmp_path, "auto", "prior", PLAN) is None
    assert "belongs to another plan" in capfd.readouterr().err


def test_a_named_checkpoint_must_fit(tmp_path: Path) -> None:
    right = save(tmp_path / "a", 5)
    found = checkpoint.find(tmp_path / "b", str(right), "prior", PLAN)
    assert found is not None and found[0] == right
    with pytest.raises(UsageError, match="not a sound checkpoint: no such folder") as missing:
        checkpoint.find(tmp_path / "b", str(tmp_path / "none"), "prior", PLAN)
    assert missing.value.at == str(tmp_path / "none")
    with pytest.raises(UsageError, match="a checkpoint of a prior, not of a tokenizer"):
        checkpoint.find(tmp_path / "b", str(right), "tokenizer", PLAN)
    with pytest.raises(UsageError, match="another config or other data"):
        checkpoint.find(tmp_path / "b", str(right), "prior", "q" * 64)
    state = json.loads((right / "state.json").read_text())
    del state["plan"]
    for written in (state, with_checksum(state)):  # changed by who knows whom, and written like this
        (right / "state.json").write_text(json.dumps(written))
        with pytest.raises(UsageError, match="not a sound checkpoint"):
            checkpoint.find(tmp_path / "b", str(right), "prior", PLAN)


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process may grow past `limit` bytes: what a full disk looks like to torch.save."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_previous_one(tmp_path: Path) -> None:
    save(tmp_path, 5)
    before = digests(tmp_path)
    with small_files(20_000), pytest.raises(VtokError, match="cannot write the checkpoint") as caught:
        save(tmp_path, 10, width=200)
    assert "earlier checkpoints are intact" in caught.value.hint
    assert digests(tmp_path) == before, "nothing half-written is left"
    found = checkpoint.find(tmp_path, "auto", "prior", PLAN)
    assert found is not None and found[0].name == "step-00000005"


def test_a_full_disk_while_the_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 5)
    before = digests(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(VtokError, match="No space left on device"):
        save(tmp_path, 10)
    assert digests(tmp_path) == before


def test_a_number_changed_in_the_state_is_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 5)
    path = save(tmp_path, 10) / "state.json"
    text = path.read_text()
    assert text.count('"step": 10') == 1
    path.write_text(text.replace('"step": 10', '"step": 12'))
    found = checkpoint.find(tmp_path, "auto", "prior", PLAN)
    assert found is not None and found[0].name == "step-00000005"
    assert "step-00000010 is skipped" in capfd.readouterr().err
