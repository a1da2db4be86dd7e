"""`vtok evaluate`: how good are the tokenizer, the prior and the samples of a run?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok import console

Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol", help="reconstruction, prior or class-accuracy; may be repeated. Default: all that are possible."
    ),
]


def evaluate(
    path: Annotated[Path, typer.Argument(help="A run's folder.")],
    protocol: Protocols = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Measure a run: reconstructions, prior and samples, with confidence intervals."""
    from pipelines.evaluate import evaluate as job
    from schemas.config.run import METRICS_FOLDER
    from vtok.evaluation.results import read_results, shown

    card = job(path, protocol)
    rows = read_results(path / METRICS_FOLDER)
    if as_json:
        console.say(json.dumps(rows, indent=2))
        return 0
    table = [("metric", "value", "95% interval", "clips")]
    table += [(*shown(row), f"{row['samples']:,}") for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    for title, value, interval, clips in table:
        console.say(f"{title:{widths[0]}}  {value:>{widths[1]}}  {interval:>{widths[2]}}  {clips:>6}")
    for name, reason in card.facts["skipped"].items():
        console.say(f"not measured: {name} ({reason})")
    console.say(f"next: vtok report {path}")
    return 0
