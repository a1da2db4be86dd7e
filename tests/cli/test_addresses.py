"""Where data jobs run: on the cluster that is named, on the one that runs a submitted job, or in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.pipelines.making import write_recipe
from vtok.cli.common import read_recipe, with_address


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    monkeypatch.chdir(tmp_path)


def submit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that `ray job submit` gives to a command."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")


def test_a_submitted_job_runs_where_it_was_submitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path / "r.yaml", tmp_path / "videos", tmp_path / "run"))
    assert read_recipe(path, None).cluster.address is None, "RAY_ADDRESS alone names no cluster to attach to"
    submit(monkeypatch)
    assert read_recipe(path, None).cluster.address == "10.0.0.1:6379"
    assert read_recipe(path, ["cluster.address=auto"]).cluster.address == "auto"
    assert with_address(read_recipe(path, None), "10.0.0.2:6379").cluster.address == "10.0.0.2:6379"


def test_paths_are_absolute_on_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path / "r.yaml", Path("videos"), Path("run")))
    here = read_recipe(path, ["models=m"])
    assert (here.out, here.models, here.data.root) == ("run", "m", "videos")
    there = with_address(here, "10.0.0.2:6379")
    assert (there.out, there.models, there.data.root) == tuple(str(tmp_path / name) for name in ("run", "m", "videos"))
    stored = with_address(read_recipe(path, ["out=s3://bucket/run"]), "10.0.0.2:6379")
    assert (stored.out, stored.models) == ("s3://bucket/run", None)


@pytest.mark.parametrize(("key", "changes"), [("out", []), ("data.root", ["out=/run"])])
def test_a_submitted_job_needs_absolute_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, changes: list[str]
) -> None:
    path = str(write_recipe(tmp_path / "r.yaml", Path("videos"), Path("run")))
    submit(monkeypatch)
    with pytest.raises(UsageError, match=f"{key} is relative") as caught:
        read_recipe(path, changes)
    assert f"{key}=/..." in caught.value.hint
