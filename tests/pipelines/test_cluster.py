"""Jobs on a cluster of two nodes that other processes run: shared work, a lost node, a straggler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.config import Recipe
from tests.pipelines.making import REPOSITORY, digests
from tests.pipelines.test_kills import CODES, COMMANDS, EVERY, driver_points, prepare
from tests.pipelines.two_nodes import TwoNodes, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LOST_AT = "shards:train-00001.tar:before_rename"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TwoNodes, Path]]:
    """A cluster whose worker stops at LOST_AT, the first time, and the file that says so. The last test breaks it."""
    mark = tmp_path_factory.mktemp("cluster") / "mark"
    with cluster_stopping_at(LOST_AT, mark) as cluster:
        yield cluster, mark


@contextmanager
def cluster_stopping_at(point: str, mark: Path) -> Iterator[TwoNodes]:
    environment = {
        "VTOK_CRASH_AT": point,
        "VTOK_CRASH_MARK": str(mark),
        "VTOK_CRASH_SIGNAL": str(int(signal.SIGSTOP)),
    }
    with two_nodes(**environment) as cluster:
        cluster.environment.update(environment)  # for the driver
        yield cluster
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
    end = time.monotonic() + 300
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
    said, errors = driver.communicate(timeout=400)
    assert driver.returncode == 0, errors
    assert "b.parquet takes long" in errors
    assert "b.parquet is being made a second time" in errors
    assert said.split()[-1] == "4"
    first, second = (tmp_path / "notes" / "b.parquet").read_text().split()
    assert first != second
    wait_for(lambda: int(first) not in cluster.processes())
    assert sorted(path.name for path in folder.glob(".vtok*")) == []


def lose_a_node(made: Recipe, marked: tuple[TwoNodes, Path], folder: Path, point: str) -> None:
    """Whoever reaches the point is stopped there. A worker's node is killed under it; a driver loses its last node and
    then goes on."""
    kind = point.split(":")[0]
    recipe, artefact = prepare(made, folder, kind)
    cluster, mark = marked
    options = ("cluster.workers=2", "cluster.cpus_per_worker=1", "--ray-address", cluster.address)
    driver = start(cluster, "vtok", *COMMANDS[kind], recipe, *options)
    wait_for(lambda: mark.exists() and len(stopped(cluster)) == 1, driver)
    (process,) = stopped(cluster)
    if point in driver_points(kind):
        assert process == driver.pid
        os.kill(max(raylets(cluster)), signal.SIGKILL)
        os.kill(process, signal.SIGCONT)
        _, errors = driver.communicate(timeout=400)
    else:
        node = parent(process)
        assert node in raylets(cluster)
        os.kill(node, signal.SIGKILL)
        _, errors = driver.communicate(timeout=400)
        assert f"worker lost while making {point.split(':')[1]}" in errors
        wait_for(lambda: process not in cluster.processes())  # workers end with their node
    assert driver.returncode in CODES, errors
    assert digests(artefact) == digests(made.folder(kind))


def raylets(cluster: TwoNodes) -> list[int]:
    def program(process: int) -> str:
        try:
            return Path(f"/proc/{process}/cmdline").read_text().split("\0")[0]
        except OSError:
            return ""

    return [process for process in cluster.processes() if program(process).endswith("raylet")]


def test_a_node_is_lost_in_the_middle(made: Recipe, marked: tuple[TwoNodes, Path], tmp_path: Path) -> None:
    """A worker is stopped when its shard is written and not yet named; then its node is killed."""
    lose_a_node(made, marked, tmp_path, LOST_AT)


@pytest.mark.soak
@pytest.mark.parametrize("point", EVERY)
def test_a_node_is_lost_at_every_point(made: Recipe, tmp_path: Path, point: str) -> None:
    with cluster_stopping_at(point, tmp_path / "mark") as cluster:
        lose_a_node(made, (cluster, tmp_path / "mark"), tmp_path, point)
