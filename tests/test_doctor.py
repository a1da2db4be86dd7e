"""The doctor finds what is missing and says how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtok import doctor
from vtok.doctor import FAIL, OK, WARN


def finding(name: str) -> doctor.Finding:
    return next(item for item in doctor.examine() if item.name == name)


def test_this_machine_is_ready() -> None:
    assert [item for item in doctor.examine() if item.level == FAIL] == []


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_compiler", lambda: None)
    found = finding("deepspeed")
    assert found.level == WARN
    assert "g++" in found.hint


def test_no_ffmpeg_is_a_failure_with_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    found = finding("ffmpeg")
    assert found.level == FAIL
    assert found.hint


def test_a_shadowed_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ROOMS", ("vtok", "json"))  # json lies elsewhere, as another `schemas` would
    found = finding("packages")
    assert found.level == FAIL
    assert "pip uninstall json" in found.hint
    monkeypatch.undo()
    assert finding("packages").level == OK
