"""Ranks on this machine end together; a hostfile is read with care."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.pipelines.making import REPOSITORY
from vtok.cli import launching
from vtok.cli.launching import launch, launch_on_hosts, read_hostfile, tethered


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {text}"]


def test_every_rank_knows_its_place(tmp_path: Path) -> None:
    names = "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')"
    text = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(os.environ[name] for name in {names}))"
    assert launch(script(text), 3) == 0
    assert [(tmp_path / str(i)).read_text() for i in range(3)] == [f"{i} {i} 3 3 127.0.0.1" for i in range(3)]


def test_a_failure_of_one_is_the_result_and_ends_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(script("time.sleep(3600) if rank == 0 else sys.exit(2)"), 2, grace=0.3) == 2
    assert "do not end by themselves after process 1 has: killed" in capfd.readouterr().err
    assert launch(script("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else sys.exit(0)"), 2) == 1
    assert "training process 1 of 2 was ended by SIGKILL" in capfd.readouterr().err


def test_a_signal_reaches_every_rank_once(tmp_path: Path) -> None:
    """SIGINT to the whole group of the launcher, as a terminal sends it: each rank gets one signal, and may save."""
    text = (
        "seen = []; signal.signal(signal.SIGTERM, lambda *a: seen.append('term'));"
        "signal.signal(signal.SIGINT, lambda *a: seen.append('int'));"
        f"folder = {str(tmp_path)!r}; open(f'{{folder}}/ready-{{rank}}', 'w').close()\n"
        "while not seen: time.sleep(0.05)\n"
        "time.sleep(1); open(f'{folder}/saved-{rank}', 'w').write(' '.join(seen)); sys.exit(130)"
    )
    code = f"import sys; from vtok.cli.launching import launch; sys.exit(launch({script(text)!r}, 2))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, start_new_session=True)
    end = time.monotonic() + 200
    while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=200) == 130
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in range(2)] == ["term", "term"]


def test_hosts(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1 slots=8\n\nnode2 slots=4  # the old one\n")
    assert read_hostfile(path) == {"node1": 8, "node2": 4}
    for text, problem, line in [
        ("node1 slots=8\nnode2\n", "not a line of a hostfile: 'node2'", 2),
        ("node1 slots=0\n", "not a line of a hostfile", 1),
        ("node1 slots=8\nnode1 slots=8\n", "host node1 is named twice", 2),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=problem) as caught:
            read_hostfile(path)
        assert caught.value.at == f"{path}:{line}"
    path.write_text("# none\n")
    with pytest.raises(UsageError, match="names no host"):
        read_hostfile(path)
    with pytest.raises(UsageError, match="No such file"):
        read_hostfile(tmp_path / "missing")


def test_several_hosts_go_through_deepspeeds_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_text("node1 slots=2\nnode2 slots=2\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="pdsh, which starts the training on 2 hosts") as caught:
        launch_on_hosts(["train", "prior", "r.yaml"], path)
    assert "torchrun" in caught.value.hint
    (tmp_path / "pdsh").write_text("#!/bin/sh\n")
    (tmp_path / "pdsh").chmod(stat.S_IRWXU)
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr("subprocess.run", run)
    assert launch_on_hosts(["train", "prior", "r.yaml"], path) == 7
    assert ran[0][:6] == tethered([], signal.SIGTERM)
    assert ran[0][8:11] == ["deepspeed.launcher.runner", "--hostfile", str(path)]
    assert ran[0][-5:] == ["--module", "vtok", "train", "prior", "r.yaml"]
    path.write_text("localhost slots=2\n")
    monkeypatch.setattr(launching, "launch", lambda command, ranks: 10 * ranks + len(command))
    assert launch_on_hosts(["train"], path) == 24, "one machine needs no pdsh"
