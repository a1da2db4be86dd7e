"""One finished run, made by the jobs themselves, that the tests of this folder look at or copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from pipelines.tokenize_clips import tokenize
from schemas.config import Recipe
from tests import tiny_run
from tests.pipelines.making import make_tokenizer, recipe


@pytest.fixture(scope="session")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory, ray_running: None) -> Recipe:
    """clips, shards, tokenizer, tokens and prior of the corpus, with two workers; read-only."""
    settings = recipe(corpus, tmp_path_factory.mktemp("runs") / "made", cluster__workers=2)
    ingest(settings)
    shard(settings)
    make_tokenizer(settings)
    tokenize(settings)
    tiny_run._MAKERS["prior"](settings)
    return settings


@pytest.fixture
def copy_of(made: Recipe, tmp_path: Path) -> Callable[..., Recipe]:
    """A copy of some stages of `made` in a run of its own; keywords change the recipe."""

    def copy(*stages: str, **changes: object) -> Recipe:
        settings = recipe(Path(made.data.root), tmp_path / "run", **changes)
        for stage in stages:
            shutil.copytree(made.folder(stage), settings.folder(stage))
        return settings

    return copy
