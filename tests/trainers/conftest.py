"""Inputs for all trainings of this folder, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.making import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with shards, tokenizer and tokens; read-only."""
    return make_inputs(tmp_path_factory.mktemp("inputs") / "run")
