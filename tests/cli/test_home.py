"""Commands work under a user without a name and without a home, as containers have them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.making import REPOSITORY, write_recipe
from vtok import home

pytestmark = pytest.mark.timeout(900)
NOBODY = "54321"
_READS = "+dac_read_search"  # the interpreter may lie in root's home
_AS_NOBODY = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps", _READS)
_PREFIX = (*_AS_NOBODY, "--ambient-caps", _READS)


def able() -> bool:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    return subprocess.run([*_PREFIX, "true"], capture_output=True, check=False).returncode == 0


as_nobody = pytest.mark.skipif(not able(), reason="needs root and setpriv, to become a user that has no name")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody reaches and may write to."""
    with tempfile.TemporaryDirectory(prefix="vt-home-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def vtok(place: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command under a user without a name; `HOME` is unset unless it is given."""
    left_out = ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME", "XDG_CACHE_HOME", "VTOK_CACHE", "RAY_ADDRESS")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    clean |= {"TMPDIR": str(place), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [*_PREFIX, sys.executable, "-m", "vtok", *map(str, arguments)]
    return subprocess.run(command, env=clean, cwd=place, capture_output=True, text=True, timeout=800, check=False)


def stage(place: Path, corpus: Path, *, steps: int) -> Path:
    """A recipe in the folder; the user can read what root has made there."""
    trains = {f"{kind}__train__{key}": steps for kind in ("tokenizer", "prior") for key in ("steps", "validate_every")}
    return write_recipe(place / "r.yaml", corpus, place / "run", **trains, sample__num=2)


@as_nobody
@pytest.mark.ray
@pytest.mark.parametrize("where", ["/nonexistent"])
def test_a_job_runs_without_a_home(place: Path, corpus: Path, where: str) -> None:
    done = vtok(place, "data", "ingest", stage(place, corpus, steps=2), HOME=where)
    assert done.returncode in (0, 3), done.stderr
    assert (place / "run" / "clips" / "_vtok.json").stat().st_uid == int(NOBODY)


@as_nobody
@pytest.mark.soak
@pytest.mark.parametrize("where", ["/nonexistent", "/", ""], ids=["missing", "read-only", "unset"])
def test_every_stage_runs_without_a_home(place: Path, corpus: Path, where: str) -> None:
    recipe = stage(place, corpus, steps=2)
    run = place / "run"
    commands: list[tuple[str | Path, ...]] = [("doctor",), ("data", "ingest", recipe), ("data", "shard", recipe)]
    commands += [("train", "tokenizer", recipe), ("tokenize", recipe), ("train", "prior", recipe), ("sample", recipe)]
    commands += [("evaluate", run), ("report", run), ("status", run), ("check", run)]
    for command in commands:
        done = vtok(place, *command, **({"HOME": where} if where else {}))
        assert done.returncode in (0, 3), (command, done.stderr)


def test_a_home_that_works_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    home.settle()
    assert os.environ["HOME"] == str(place) and "XDG_CACHE_HOME" not in os.environ


def test_a_home_that_is_missing_is_made_among_the_temporary_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("HOME", str(place / "gone"))
    for name in ("XDG_CACHE_HOME", "TRITON_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    home.settle()
    made = Path(os.environ["HOME"])
    assert made.is_dir() and made.is_relative_to(place)
    assert Path(os.environ["XDG_CACHE_HOME"]).is_relative_to(made)
