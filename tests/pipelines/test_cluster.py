"""Jobs on a cluster of two nodes that other processes run: shared work, a lost node, a straggler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.config import Recipe
from tests.pipelines.making import REPOSITORY, digests
from tests.pipelines.test_kills import CODES, prepare
from tests.pipelines.two_nodes import TwoNodes, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
LOST_AT = "shards:train-00001.tar:before_rename"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TwoNodes, Path]]:
    """A cluster whose worker stops at LOST_AT, the first time, and the file that says so. The last test breaks it."""
    mark = tmp_path_factory.mktemp("cluster") / "mark"
    environment = {
        "VTOK_CRASH_AT": LOST_AT,
        "VTOK_CRASH_MARK": str(mark),
        "VTOK_CRASH_SIGNAL": str(int(signal.SIGSTOP)),
    }
    with two_nodes(**environment) as cluster:
        yield cluster, mark
    assert cluster.processes() == []


def start(cluster: TwoNodes, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **cluster.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        assert time.monotonic() < end
        time.sleep(0.05)


def stopped(cluster: TwoNodes) -> list[int]:
    """Processes of the cluster that SIGSTOP has stopped."""
    found = []
    for process in cluster.processes():
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                found.append(process)
        except OSError:
            continue
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.soak
def test_a_straggler_is_made_on_the_other_node_as_well(marked: tuple[TwoNodes, Path], tmp_path: Path) -> None:
    cluster, folder = marked[0], tmp_path / "tokens"
    driver = start(cluster, "tests.pipelines.straggling", folder, cluster.address)
    said, errors = driver.communicate(timeout=200)
    assert driver.returncode == 0, errors
    assert "b.parquet takes long" in errors
    assert "b.parquet is being made a second time" in errors
    assert said.split()[-1] == "4"
    first, second = (tmp_path / "notes" / "b.parquet").read_text().split()
    assert first != second
    wait_for(lambda: int(first) not in cluster.processes())
    assert sorted(path.name for path in folder.glob(".vtok*")) == []


def test_a_node_is_lost_in_the_middle(made: Recipe, marked: tuple[TwoNodes, Path], tmp_path: Path) -> None:
    """A worker is stopped when its shard is written and not yet named; then its node is killed."""
    recipe, artefact = prepare(made, tmp_path, "shards")
    cluster, mark = marked
    options = ("cluster.workers=2", "cluster.cpus_per_worker=1", "--ray-address", cluster.address)
    driver = start(cluster, "vtok", "data", "shard", recipe, *options)
    wait_for(lambda: mark.exists() and len(stopped(cluster)) == 1, driver)
    (worker,) = stopped(cluster)
    node = parent(worker)
    assert "raylet" in Path(f"/proc/{node}/cmdline").read_text().split("\0")[0]
    os.kill(node, signal.SIGKILL)
    _, errors = driver.communicate(timeout=200)
    assert driver.returncode in CODES, errors
    assert "worker lost while making train-00001.tar" in errors
    assert worker not in cluster.processes(), "workers end with their node"
    assert digests(artefact) == digests(made.folder("shards"))
