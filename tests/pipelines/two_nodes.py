"""A Ray cluster on this machine: a head without CPUs and two nodes of one CPU each, every one a raylet of its own.

Run as a program it starts the cluster, prints the head's address and serves until its standard input ends.
`two_nodes` runs it in a process group of its own, with a token that only its user has.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
_TRIES = 3  # Ray gives a node 30 s to come up, which is not much on a busy machine
_FAST = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


class TwoNodes(NamedTuple):
    """A running cluster.

    Attributes:
        address: of its head.
        environment: what a driver needs in its environment; it marks every process of the cluster, too.
        dashboard: URL to which jobs are submitted; empty without a dashboard.
    """

    address: str
    environment: dict[str, str]
    dashboard: str = ""

    def processes(self) -> list[int]:
        """All processes of the cluster and of its drivers."""
        mark = f"VTOK_TEST_RUN={self.environment['VTOK_TEST_RUN']}".encode()
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdecimal() and mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


@contextmanager
def two_nodes(*, dashboard: bool = False, **environment: str) -> Iterator[TwoNodes]:
    """Starts a cluster; all of its processes are gone at the end, also those that were stopped or orphaned.

    Args:
        dashboard: with a dashboard, so that jobs can be submitted; needs `ray[default]`.
        environment: for the nodes and their workers.
    """
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    access |= {"VTOK_TEST_RUN": secrets.token_hex(8), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    for _ in range(_TRIES):
        with _server(["dashboard"] if dashboard else [], {**access, **environment}) as said:
            if said:
                address, url = said.split(" ")
                yield TwoNodes(address, access, url)
                return
    raise AssertionError("the cluster does not start")


@contextmanager
def _server(arguments: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Runs `serve` and gives what it prints; nothing if it does not come up."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.two_nodes", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            line = server.stdout.readline()
            yield line.removeprefix("address ").rstrip("\n") if line.startswith("address ") else ""
        finally:
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=30)
            cluster, end = TwoNodes("", environment), time.monotonic() + 60
            while (left := cluster.processes()) and time.monotonic() < end:
                for process in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                time.sleep(0.1)


def serve() -> None:
    """Starts the cluster, prints its address, and waits for the end of standard input."""
    from ray.cluster_utils import Cluster

    agent = {"dashboard_agent_listen_port": 0}  # any free port: three agents share this machine
    dashboard = "dashboard" in sys.argv[1:]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": dashboard, "_system_config": _FAST, **agent},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20, **agent)
    url = f"http://{cluster.head_node.webui_url}" if dashboard else ""
    print(f"address {cluster.address} {url}", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    serve()
