"""Reads the metrics.jsonl that a training loop writes: one JSON object a line, each with its `step`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete rows of `folder/metrics.jsonl`, none if there is no such file.

    A last line cut off by a kill is ignored; numbers that were not finite are None.
    """
    path = folder / METRICS_NAME
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def series(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """The (step, value) points of one quantity, where it was measured and finite."""
    return [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
