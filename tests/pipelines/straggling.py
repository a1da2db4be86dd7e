"""A job on a cluster whose unit b never comes back the first time: run as a program with its folder and an address."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.runtime import run_job
from schemas.config.run import ClusterConfig
from tests.pipelines import workers
from tests.pipelines.test_runtime import four_parts

if __name__ == "__main__":
    cluster = {"address": sys.argv[2], "workers": 2, "cpus_per_worker": 1, "straggler_seconds": 2}
    card = run_job(four_parts(Path(sys.argv[1]), workers.StuckOnce), ClusterConfig.model_validate(cluster))
    print(card.counts["clips"])
