"""Starts the processes of one training: on this machine itself, on several through DeepSpeed's launcher.

Each process gets what torchrun would give it (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), so `torchrun -m vtok train ...` and `deepspeed --module vtok train ...` do as well. Own processes end
better: one signal reaches every rank once and all of them save, where one rank dies the others do not outlive it, and
none outlives the launcher.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from schemas.errors import EXIT_FAILED, EXIT_INTERRUPTED, UsageError
from vtok import console
from vtok.cli import tether

GRACE = 60.0
"""Seconds that the other ranks have to end by themselves after one has failed."""

_HERE = ("localhost", "127.0.0.1")
_POLL = 0.1


def launched() -> bool:
    """Whether this process is one of a training's ranks already."""
    return "WORLD_SIZE" in os.environ


def launch(command: list[str], ranks: int, *, grace: float = GRACE) -> int:
    """Runs a command as ranks 0 to ranks - 1 on this machine, and returns the exit code of them all.

    SIGINT and SIGTERM go to every rank once: they save and exit 130. A second one ends them at once. If a rank fails,
    the others get `grace` seconds, then they are killed. If this process is killed, all of them are.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    held = hold_port()
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held.getsockname()[1])}
    processes: list[subprocess.Popen[bytes]] = []
    signals = 0

    def forward(signum: int, frame: Any) -> None:
        nonlocal signals
        signals += 1
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if signals == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(ranks):
            mine = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: Ctrl-C in a terminal reaches a rank through `forward`, once.
            processes.append(subprocess.Popen(tethered(command), env=mine, start_new_session=True))
        failed = _wait(processes, grace)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        held.close()
        for number, old in before.items():
            signal.signal(number, old)
    if signals:
        return EXIT_INTERRUPTED
    if failed is None:
        return 0
    code = processes[failed].returncode
    if code >= 0:
        return code
    console.note(f"error: training process {failed} of {ranks} was ended by {signal.Signals(-code).name}")
    console.note("hint:  no memory left, perhaps; the same command goes on from the last checkpoint")
    return EXIT_FAILED


def tethered(command: list[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """A command that gets a signal when this thread ends: killed or not, nothing is left behind."""
    return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), str(number.value), *command]


def _wait(processes: list[subprocess.Popen[bytes]], grace: float) -> int | None:
    """Waits for all; returns the rank that failed first, if one did."""
    failed, deadline = None, float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = next((rank for rank, process in enumerate(processes) if process.poll()), None)
            deadline = time.monotonic() + grace if failed is not None else deadline
        elif time.monotonic() > deadline:
            console.note(f"the other training processes do not end by themselves after process {failed} has: killed")
            break
        time.sleep(_POLL)
    if failed is None:
        failed = next((rank for rank, process in enumerate(processes) if process.returncode), None)
    return failed


def hold_port() -> socket.socket:
    """A socket on a free port of 127.0.0.1 that nobody is given while it is open; who asks for that port by its number
    and reuses addresses, as torch's store does, may listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def read_hostfile(path: Path) -> dict[str, int]:
    """Processes by host, from lines such as `node1 slots=8`; `#` begins a comment.

    Raises:
        UsageError: no such file, a line that is none of this, a host twice, or no host at all.
    """
    hint = "each line is a host and its number of GPUs: node1 slots=8"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UsageError(f"the hostfile cannot be read: {error.strerror}", at=str(path), hint=hint) from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        slots = words[1].removeprefix("slots=") if len(words) == 2 and words[1].startswith("slots=") else ""
        if not slots.isdecimal() or int(slots) == 0:
            raise UsageError(f"not a line of a hostfile: {line.strip()!r}", at=f"{path}:{number}", hint=hint)
        if words[0] in hosts:
            raise UsageError(f"host {words[0]} is named twice", at=f"{path}:{number}", hint=hint)
        hosts[words[0]] = int(slots)
    if not hosts:
        raise UsageError("the hostfile names no host", at=str(path), hint=hint)
    return hosts


def launch_on_hosts(arguments: list[str], hostfile: Path) -> int:
    """Runs `vtok` with these arguments on every host of a hostfile; returns the exit code.

    Raises:
        UsageError: the hostfile is not sound, or pdsh is missing.
    """
    hosts = read_hostfile(hostfile)
    if len(hosts) == 1 and next(iter(hosts)) in _HERE:
        return launch([sys.executable, "-m", "vtok", *arguments], sum(hosts.values()))
    if shutil.which("pdsh") is None:
        raise UsageError(
            f"pdsh, which starts the training on {len(hosts)} hosts, is not installed",
            at=str(hostfile),
            hint="apt-get install pdsh, and let ssh log in without a password; or start torchrun on every host",
        )
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile), "--no_local_rank"]
    command = [*launcher, "--module", "vtok", *arguments]
    # At SIGTERM it ends the processes on all hosts.
    return subprocess.run(tethered(command, signal.SIGTERM), check=False).returncode
