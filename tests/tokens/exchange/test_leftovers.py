"""A killed export leaves one folder behind, which the next one to the same name clears away, unless it is alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.pipelines.making import REPOSITORY
from tests.tokens.making import make_store
from vtok.files import TEMP_MARK
from vtok.locks import exclusive
from vtok.tokens.exchange import exporting
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.store import TokenStore

TEMP = f"{TEMP_MARK}out"
KILLED = """
import os, signal
from pathlib import Path
from vtok.tokens.exchange import exporting
from vtok.tokens.store import TokenStore
exporting.write_facts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
exporting.export_store(TokenStore("tokens"), Path("out"), "mds")
"""


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(make_store(tmp_path / "tokens", {"train": [3]}))


def test_a_killed_export_is_swept_by_the_next(store: TokenStore, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ.get("PATH", "")}
    died = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / TEMP / "train/index.json").exists()
    export_store(store, tmp_path / "out", "hf")  # of another format: nothing of the first may stay
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokens"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "vtok.json"]
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())


def test_an_export_that_is_alive_is_left_alone(store: TokenStore, tmp_path: Path) -> None:
    with exclusive(tmp_path / TEMP):
        (tmp_path / TEMP / "half").touch()
        with pytest.raises(UsageError, match="another job is at work"):
            export_store(store, tmp_path / "out", "hf")
        export_store(store, tmp_path / "other", "hf")
        assert (tmp_path / TEMP / "half").exists()


def test_an_export_that_ends_just_before_the_lock_is_left_alone(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def late(folder: Path) -> Iterator[bool]:
        (folder / "whole").touch()
        folder.rename(tmp_path / "out")
        with exclusive(tmp_path / "out"):
            yield True

    monkeypatch.setattr(exporting, "exclusive", late)
    with pytest.raises(UsageError, match="another export"):
        export_store(store, tmp_path / "out", "hf")
    assert (tmp_path / "out/whole").exists()
