"""What several folders of tests share: one small corpus, one embedded Ray for all tests that run jobs in-process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.making import write_corpus


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stamps of verified shards stay out of the user's cache, in subprocesses too."""
    before = os.environ.get("VTOK_CACHE")
    os.environ["VTOK_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("VTOK_CACHE")
    if before is not None:
        os.environ["VTOK_CACHE"] = before


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tests.pipelines.making.write_corpus`; read-only."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "videos")


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    """A Ray embedded in this process. RAY_ADDRESS names no cluster: an embedded Ray must not look at it."""
    from pipelines.runtime import ray_session
    from schemas.config.run import ClusterConfig

    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
    try:
        with ray_session(ClusterConfig()):
            yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
