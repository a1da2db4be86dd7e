"""What a job that ended badly has left goes with the next look, but never what a job is writing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.test_looking import finished, said
from vtok.files import TEMP_MARK
from vtok.locks import exclusive

__all__ = ["finished"]
LOOKS = [("status",), ("check",), ("data", "check", "--fast")]


@pytest.fixture
def left(finished: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A run with an empty temporary file in an artefact and a half-written checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("prior", "samples"))
    leftovers = [
        run / "shards" / f"{TEMP_MARK}0-a.tar",
        run / "tokenizer" / "checkpoints" / f"{TEMP_MARK}step-00000004",
    ]
    leftovers[1].mkdir(parents=True)
    (leftovers[1] / "state.json").touch()
    leftovers[0].touch()
    return run, leftovers


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_a_look_removes_what_was_left(
    left: tuple[Path, list[Path]], capfd: pytest.CaptureFixture[str], look: tuple[str, ...]
) -> None:
    run, leftovers = left
    said(capfd, *look, run)
    assert not any(path.exists() for path in leftovers)


def test_what_a_job_writes_is_left_alone(left: tuple[Path, list[Path]], capfd: pytest.CaptureFixture[str]) -> None:
    run, leftovers = left
    with exclusive(run / "shards"):
        said(capfd, "status", run)
    assert [path.exists() for path in leftovers] == [True, False]
