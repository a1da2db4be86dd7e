"""No training process outlives the launcher, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.pipelines.making import REPOSITORY
from tests.waiting import PATIENCE, wait_until
from vtok.cli import tether
from vtok.cli.launching import tethered

RANK = "import os, sys, time; open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}', 'w').close(); time.sleep(3600)"


def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    code = f"from vtok.cli.launching import launch; launch({command!r}, 2)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as launcher:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2 or launcher.poll() is not None)
        launcher.kill()
        launcher.communicate(timeout=PATIENCE)  # the pipe's end: nobody is left who holds it
    assert launcher.returncode == -signal.SIGKILL


def test_a_launcher_that_is_gone_already_starts_nothing(tmp_path: Path) -> None:
    """It was killed before its child could ask the kernel for a signal: that child has another parent now."""
    command = tethered([sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])
    assert subprocess.run(command, check=False).returncode == 0
    (tmp_path / "ran").unlink()
    gone = [str(os.getppid()) if word == str(os.getpid()) else word for word in command]
    assert subprocess.run(gone, check=False).returncode == 1
    assert not (tmp_path / "ran").exists()


def test_the_command_stays_what_it_is(tmp_path: Path) -> None:
    """Arguments, environment and exit code; and the program between imports nothing of vtok's."""
    code = "import os, sys; sys.exit(int(sys.argv[1]) + int(os.environ['MORE']))"
    command = tethered([sys.executable, "-c", code, "40"])
    assert subprocess.run(command, env={**os.environ, "MORE": "2"}, check=False).returncode == 42
    imports = [line for line in Path(tether.__file__).read_text().splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import ctypes", "import os", "import sys"]
