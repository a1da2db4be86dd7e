"""Jobs without Ray: the same units by the same workers, one after the other in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from pipelines import runtime
from pipelines.pool import Made, Unit, Work
from pipelines.token_inputs import ShardProof
from schemas.config.run import ClusterConfig


class PoolHere:
    """Stands in for `pipelines.pool.Pool`.

    Attributes:
        made: names of all units that were made by any of them.
        verified: names of all shards that were only read.
    """

    made: ClassVar[list[str]] = []
    verified: ClassVar[list[str]] = []

    def __init__(self, worker: type, init: tuple[Any, ...], cluster: ClusterConfig, *, gpus: float = 0.0) -> None:
        self.worker, self.available = worker(*init), 1.0

    def run(self, units: list[Unit]) -> Iterator[Made]:
        for unit in units:
            part = self.worker.make(unit.name, unit.payload)
            (PoolHere.verified if isinstance(self.worker, ShardProof) else PoolHere.made).append(unit.name)
            yield Made(unit, part, Work(0.1, self.worker.clock.take()))


def use(patch: pytest.MonkeyPatch) -> None:
    """Makes `run_job` work in this process, and forgets what was made before."""
    PoolHere.made, PoolHere.verified = [], []
    patch.setattr(runtime, "Pool", PoolHere)
    patch.setattr(runtime, "ray_session", lambda cluster: contextlib.nullcontext())
