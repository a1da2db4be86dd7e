"""One writer a folder; a killed one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import UsageError, VtokError
from schemas.paths import as_path
from vtok.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from vtok.locks import exclusive
with exclusive(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_holds_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with pytest.raises(UsageError, match="another job"), exclusive(folder):
            pass
        with exclusive(tmp_path / "new" / "other") as held:
            assert held
        holder.kill()
        holder.wait()
        with exclusive(folder) as held:
            assert held
    assert list(folder.iterdir()) == []


def test_an_object_store_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with exclusive(as_path("s3://bucket/folder")) as held:
        assert not held
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VtokError, match="cannot use the folder"), exclusive(tmp_path / "file" / "folder"):
        pass


FORKED = """
import os, sys, time
from pathlib import Path
from vtok.locks import exclusive
with exclusive(Path(sys.argv[1])):
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"x")
        time.sleep(3600)
    os.read(ready, 1)
    print(child, flush=True)
    sys.stdin.read()
"""


def test_what_the_holder_has_forked_does_not_hold(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(UsageError, match="another job"), exclusive(tmp_path):
                pass
            holder.kill()
            holder.wait()
            with exclusive(tmp_path) as held:
                assert held
        finally:
            os.kill(child, signal.SIGKILL)
