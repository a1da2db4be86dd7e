"""Jobs that `ray job submit` runs on a cluster of two nodes: finished, stopped half-way, and submitted again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.making import REPOSITORY, digests, write_recipe
from tests.pipelines.two_nodes import TwoNodes, two_nodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("aiohttp", "aiohttp_cors", "opencensus", "prometheus_client"))),
        reason="`ray job submit` needs ray[default]: pip install 'vtok[cluster]'",
    ),
]
_HELD = "shards:train-00001.tar:before_rename"
_PATIENCE = 600.0  # seconds; a busy machine takes half a minute to start one Python that imports Ray


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TwoNodes, Path]]:
    """A cluster whose worker stops at _HELD, the first time, and the file that says so."""
    mark = tmp_path_factory.mktemp("submitted") / "mark"
    stop = {"VTOK_CRASH_AT": _HELD, "VTOK_CRASH_MARK": str(mark), "VTOK_CRASH_SIGNAL": str(int(signal.SIGSTOP))}
    with two_nodes(dashboard=True, RAY_JOB_STOP_WAIT_TIME_S="300", **stop) as cluster:
        yield cluster, mark
    assert cluster.processes() == []


def job(cluster: TwoNodes, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`ray job ...`."""
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **cluster.environment, "RAY_ADDRESS": cluster.dashboard},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


def vtok(*arguments: str | Path) -> list[str]:
    return ["--", sys.executable, "-m", "vtok", *map(str, arguments)]


def test_stopped_half_way_and_submitted_again(corpus: Path, held: tuple[TwoNodes, Path], tmp_path: Path) -> None:
    """The command finds the cluster by itself; `ray job stop` interrupts it as Ctrl-C does; the bytes are the same."""
    cluster, mark = held
    recipe = write_recipe(tmp_path / "r.yaml", corpus, tmp_path / "run")
    said = finished(job(cluster, "submit", *vtok("data", "ingest", recipe)))
    assert "next: vtok data shard" in said

    patient = ("cluster.workers=2", "cluster.cpus_per_worker=1", "cluster.straggler_seconds=3600")
    command = vtok("data", "shard", recipe, *patient)
    first = job(cluster, "submit", "--no-wait", "--submission-id=first", *command)
    assert first.returncode == 0, first.stderr
    end = time.monotonic() + _PATIENCE
    while not mark.exists():
        assert time.monotonic() < end, job(cluster, "logs", "first").stdout
        time.sleep(0.2)
    stopped = job(cluster, "stop", "first")
    assert stopped.returncode == 0, stopped.stderr
    said = job(cluster, "logs", "first").stdout
    assert "interrupted: what is finished is kept" in said
    assert "Traceback" not in said
    shards = tmp_path / "run/shards"
    assert not (shards / "_vtok.json").exists()

    said = finished(job(cluster, "submit", *command))
    assert "next: vtok train tokenizer" in said
    shutil.copytree(tmp_path / "run/clips", tmp_path / "other/clips")
    finished(job(cluster, "submit", *command, f"out={tmp_path / 'other'}"))
    assert digests(shards) == digests(tmp_path / "other/shards")


def finished(done: subprocess.CompletedProcess[str]) -> str:
    """What a job said that ended with rejects, as all do with this corpus; to Ray every code but 0 is a failure."""
    said = done.stdout + done.stderr
    assert "exit code 3" in said, said
    return said


def test_an_error_is_the_jobs_last_word(held: tuple[TwoNodes, Path], tmp_path: Path) -> None:
    failed = job(held[0], "submit", *vtok("data", "shard", tmp_path / "no.yaml"))
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "exit code 2" in said
    assert "no.yaml" in said
    assert "hint:" in said
    assert "Traceback" not in said
