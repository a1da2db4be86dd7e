"""What several folders of tests share: one small corpus, one embedded Ray for all tests that run jobs in-process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from schemas import paths
from tests.pipelines.making import write_corpus
from tests.s3_server import Server, s3_server

# What is run with nohup or in the background of a script ignores these, and so would all that the tests start.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# The same examples everywhere, and none too slow: a busy machine is no finding.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

_LONG = ("jobs", "trainers", "e2e", "tokens", "tokenizers")
"""The groups of tests that take minutes, the longest first."""


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the groups (which pytest 9.2 does not let xdist 3.8 do)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several test processes (`-n 2`) one runs all jobs, with one Ray and one finished run; another all trainings.

    The long groups come first (`--no-loadscope-reorder` keeps them so, where xdist would begin with the groups of many
    tests), the others, of one file each, last: then all processes end at about the same time.
    """
    places = {}
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        group = "jobs" if _needs_ray(item) else place.parts[0] if place.parts[0] in _LONG else place.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
        places[item] = _LONG.index(group) if group in _LONG else len(_LONG)
    if hasattr(config, "workerinput"):
        items.sort(key=places.__getitem__)


def _needs_ray(item: pytest.Item) -> bool:
    return "ray_running" in getattr(item, "fixturenames", ())


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
def s3() -> Iterator[Server]:
    """An S3 server that this process and those that it starts reach through the standard variables."""
    with s3_server() as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        paths._store.cache_clear()
        try:
            yield server
        finally:
            paths._store.cache_clear()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@pytest.fixture(scope="session")
def ray_running(s3: Server) -> Iterator[None]:
    """A Ray embedded in this process. RAY_ADDRESS names no cluster: an embedded Ray must not look at it.

    Its workers inherit the variables with which they reach `s3`.
    """
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
