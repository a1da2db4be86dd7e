"""Waiting threads sleep in whatever process computes; OpenMP itself says so when torch loads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.pipelines.making import REPOSITORY
from vtok.openmp import PASSIVE, wait_passively

COMPUTING = {
    "a command": ("-m", "vtok", "doctor"),
    "a rank": ("-c", "import trainers.ranks"),
    "a worker": ("-c", "import pipelines.tokenize_worker"),
}
"""Programs that import torch somewhere."""


@pytest.mark.parametrize("program", list(COMPUTING))
def test_threads_wait_passively(program: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, *COMPUTING[program]], env=environment, capture_output=True, text=True)
    said = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", done.stderr))
    assert said == PASSIVE, done.stderr


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PASSIVE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_passively()
    assert PASSIVE.items() <= os.environ.items()
