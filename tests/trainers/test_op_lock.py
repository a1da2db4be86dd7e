"""A killed compilation of DeepSpeed's op does not stop the next training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainers import op_lock


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock that nothing has been written beside for an hour."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = tmp_path / "py311_cpu" / "deepspeed_shm_comm"
    folder.mkdir(parents=True)
    for name in ("lock", "shm.o"):
        (folder / name).touch()
        _age(folder / name)
    return folder / "lock"


def _age(path: Path) -> None:
    when = path.stat().st_mtime - 3600
    os.utime(path, (when, when))


def _ends(monkeypatch: pytest.MonkeyPatch, lock: Path) -> list[float]:
    """Waits of the module; at the third the compilation ends."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            lock.unlink()

    monkeypatch.setattr(op_lock.time, "sleep", sleep)
    return waits


def test_a_lock_that_was_left_behind_is_removed(lock: Path, capfd: pytest.CaptureFixture[str]) -> None:
    op_lock.wait_for_compilation()
    assert not lock.exists() and (lock.parent / "shm.o").exists()
    assert f"removed {lock}" in capfd.readouterr().err
    op_lock.wait_for_compilation()
    assert capfd.readouterr().err == ""


def test_one_that_a_process_holds_is_waited_for(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waits = _ends(monkeypatch, lock)
    with lock.open("rb"):
        assert op_lock.holder(lock) == os.getpid()
        op_lock.wait_for_compilation()
    assert len(waits) == 3
    said = capfd.readouterr().err
    assert said.count("waiting for the compilation") == 1 and f"by process {os.getpid()}" in said


def test_one_that_another_machine_writes_beside_is_waited_for(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert op_lock.holder(lock) is None
    (lock.parent / "shm_interface.o").touch()
    waits = _ends(monkeypatch, lock)
    op_lock.wait_for_compilation()
    assert len(waits) == 3
