"""The step line, and the same numbers in metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vtok.console import duration
from vtok.files import write_bytes
from vtok.metrics_log import read_metrics

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends one JSON object a line; after a resume, lines past the checkpoint are dropped first.

    Args:
        folder: the run's folder.
        step: the step to go on from; lines with a larger `step` are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / METRICS_NAME
        if self.path.exists():
            kept = [row for row in read_metrics(folder) if row["step"] <= step]
            write_bytes(self.path, b"".join(_line(row) for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row; NaN and infinities are written as null."""
        with self.path.open("ab") as stream:
            stream.write(_line(row))


def _line(row: dict[str, Any]) -> bytes:
    safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(safe).encode() + b"\n"


def step_line(title: str, row: dict[str, Any]) -> str:
    """One readable line, e.g. `prior 01250/20000 6.3% loss 5.412 val 5.530 lr 2.9e-04 gnorm 0.71 221k tok/s ...`."""
    step, steps = row["step"], row["steps"]
    parts = [f"{title} {step:0{len(str(steps))}d}/{steps} {100 * step / steps:.1f}%"]
    skip = {"step", "steps", "kind", "lr", "gnorm", "rate", "unit", "mem_gb", "data_fraction", "eta", "seconds"}
    parts += [f"{key} {value:.4g}" for key, value in row.items() if key not in skip and isinstance(value, int | float)]
    parts.append(f"lr {row['lr']:.1e} gnorm {row['gnorm']:.2f}")
    parts.append(
        f"{_short(row['rate'])} {row['unit']}/s mem {row['mem_gb']:.1f}G data {100 * row['data_fraction']:.1f}%"
    )
    parts.append(f"eta {duration(row['eta'])}")
    return " ".join(parts)


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.1f}"
