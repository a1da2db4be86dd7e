"""An embedded Ray is for one user and one job: by the kernel's own lists of sockets, files and processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipelines import embedded, guard
from tests.pipelines.making import REPOSITORY
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LIMIT = 5.0
"""Seconds that a process may outlive its job."""

_LISTENS = "0A"
_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def processes() -> set[int]:
    """Those of the Ray that this process has embedded, and this one."""
    return {os.getpid(), *guard.processes(os.environ[guard.MARK], "no such folder")}


def listening(numbers: set[int]) -> dict[str, list[str]]:
    """Addresses on which some processes accept connections, with their command lines, from /proc/net."""
    sockets = {}
    for number in numbers:
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{number}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets[str(handle.readlink())] = number
    found: dict[str, list[str]] = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            local, _, state, *_, inode = line.split()[1:10]
            if state == _LISTENS and f"socket:[{inode}]" in sockets:
                owner = Path(f"/proc/{sockets[f'socket:[{inode}]']}/cmdline").read_text()
                found.setdefault(local.split(":")[0], []).append(owner[:60])
    return found


def test_it_listens_on_the_loopback_address_only(ray_running: None) -> None:
    found = listening(processes())
    assert sum(map(len, found.values())) >= 3, "node, store and driver listen somewhere"
    assert set(found) <= set(_LOOPBACK), found


@pytest.mark.parametrize("known", [True, False])
def test_it_has_a_token_of_its_own(ray_running: None, known: bool) -> None:
    """Without it another process of the same user is refused."""
    code = "import sys; from ray._raylet import GcsClient; print(GcsClient(address=sys.argv[1]).internal_kv_keys(b''))"
    token = os.environ["RAY_AUTH_TOKEN"] if known else "0" * 64
    done = subprocess.run(
        [sys.executable, "-c", code, ray.get_runtime_context().gcs_address],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode == 0) == known, done.stderr
    assert known or "oken" in done.stderr


def test_nobody_else_can_write_into_its_folder(ray_running: None) -> None:
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
    top = session.parents[1]
    assert top.name.startswith("vtok-ray-") and stat.S_IMODE(top.stat().st_mode) == 0o700
    wait_until(lambda: not list(others_may_write(top)))


def others_may_write(folder: Path) -> Iterator[Path]:
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH and not path.is_socket():
                yield path


JOB = """
import sys, time
from pipelines.session import ray_session
from schemas.config.run import ClusterConfig
print("starting", flush=True)
with ray_session(ClusterConfig()):
    print("started", flush=True)
    sys.stdin.readline()
    print("ending", flush=True)
print("ended", flush=True)
"""


class Job:
    """A process that starts Ray, waits for a line, and ends it; all of its processes carry a mark of this test."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"VTOK_TEST_RUN={folder}".encode()
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", guard.MARK)
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {"VTOK_TEST_RUN": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def heard(self, word: str) -> None:
        assert self.process.stdout is not None and self.process.stdout.readline().strip() == word

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def left(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and self.mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text().replace("\0", " ")[:90])
        return [line for line in found if line.strip()]

    def kill(self) -> list[str]:
        """Kills the whole group, and returns what is left of the job after LIMIT seconds."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        end = time.monotonic() + LIMIT
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.1)
        return left


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files whose name is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        yield Path(folder)


def kill_while(moment: str, seconds: float, folder: Path) -> None:
    """Kills a job some time after a moment; no process, no folder and no shared memory may be left of it."""
    job = Job(folder)
    job.heard("starting")
    if moment != "starting":
        job.heard("started")
    if moment == "ending":
        job.say()
        job.heard("ending")
    time.sleep(seconds)
    assert job.kill() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("moment", "seconds"), [("starting", 2.0), ("ending", 0.1)])
def test_a_job_that_is_killed_leaves_nothing(short: Path, moment: str, seconds: float) -> None:
    kill_while(moment, seconds, short)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(30))
def test_a_job_that_is_killed_at_any_moment_leaves_nothing(short: Path, number: int) -> None:
    draw = random.Random(f"embedded {number}")
    moment = ("starting", "started", "ending")[number % 3]
    kill_while(moment, draw.uniform(0, {"starting": 6.0, "started": 3.0, "ending": 2.0}[moment]), short)


def test_a_job_that_ends_leaves_nothing(short: Path) -> None:
    job = Job(short)
    job.heard("starting")
    job.heard("started")
    assert len(job.left()) > 3, "the mark must find Ray's processes, or the tests here prove nothing"
    job.process.communicate("\n")
    assert job.process.returncode == 0
    assert job.left() == []
    assert list(short.iterdir()) == []


def test_only_own_folders_that_nobody_uses_are_swept(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    kept = [short / "vtok-ray-young", short / "other"]
    gone = short / "vtok-ray-old"
    for folder in (*kept, gone):
        (folder / "r").mkdir(parents=True)
    for folder in (short / "other", gone):
        os.utime(folder, (0, 0))
    embedded.sweep_left()
    assert sorted(short.iterdir()) == sorted(kept)
