"""Runs every command of the workflow on one recipe, in one process with one Ray, and prints what happened as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pipelines.runtime import ray_session
from schemas.config import load_recipe
from tests.pipelines.making import digests
from vtok import console
from vtok.cli import main


def commands(recipe: str, run: str) -> list[list[str]]:
    return [
        ["data", "ingest", recipe],
        ["data", "shard", recipe],
        ["train", "tokenizer", recipe],
        ["tokenize", recipe],
        ["train", "prior", recipe],
        ["sample", recipe],
        ["evaluate", run],
        ["report", run],
        ["tokens", "check", f"{run}/tokens"],
        ["status", run],
    ]


def tell(recipe: str) -> dict[str, Any]:
    settings = load_recipe(recipe)
    run = settings.out
    passes = []
    with ray_session(settings.cluster), console.quiet_stdout():
        for _ in range(2):
            codes: dict[str, int] = {}
            seconds: dict[str, float] = {}
            for command in commands(recipe, run):
                name = " ".join(command[:-1])
                start = time.monotonic()
                codes[name] = main(command)
                seconds[name] = round(time.monotonic() - start, 2)
            passes.append({"codes": codes, "seconds": seconds, "digests": digests(Path(run))})
    return {"passes": passes}


if __name__ == "__main__":
    print(json.dumps(tell(sys.argv[1])))
