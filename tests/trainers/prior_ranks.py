"""Trains priors from a list of recipes, one after the other, alone or as one of several ranks; each may die at a step.

`python -m tests.trainers.prior_ranks RUNS.json`, where RUNS.json is {"runs": [{"recipe": {...}, "dies_at": 7}, ...]}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from schemas.config import Recipe
from trainers.prior import PriorTask, train_prior
from vtok.priors.base import Batch


class _Mortal(PriorTask):
    """Kills its process in the middle of a step."""

    dies_at: int | None = None

    def _arguments(self, batch: Batch, step: int, part: int = 0) -> tuple[Any, ...]:
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._arguments(batch, step, part)


def main() -> None:
    import trainers.prior

    trainers.prior.PriorTask = _Mortal  # type: ignore[misc]
    for run in json.loads(Path(sys.argv[1]).read_text())["runs"]:
        _Mortal.dies_at = run.get("dies_at")
        train_prior(Recipe.model_validate(run["recipe"]))


if __name__ == "__main__":
    main()
