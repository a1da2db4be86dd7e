"""metrics.jsonl never holds a step twice, and is always readable."""

from __future__ import annotations

import json
from pathlib import Path

from trainers.metrics import MetricsLog, step_line
from vtok.metrics_log import read_metrics

ROW = {
    "steps": 20000,
    "loss": 5.4123,
    "val": 5.53,
    "lr": 2.9e-4,
    "gnorm": 0.711,
    "rate": 221_000.0,
    "unit": "tok",
    "mem_gb": 61.24,
    "data_fraction": 0.004,
    "eta": 4320.0,
    "seconds": 7.0,
}


def test_resuming_drops_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (1, 5, 10, 12):
        log.write({"step": step, "loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 13, "lo')  # killed while writing
    again = MetricsLog(tmp_path, 10)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 5, 10]
    again.write({"step": 11, "loss": 1.1})
    assert read_metrics(tmp_path)[-1] == {"step": 11, "loss": 1.1}
    MetricsLog(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    MetricsLog(tmp_path, 0).write({"step": 1, "loss": float("nan"), "gnorm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "gnorm": None}


def test_the_step_line() -> None:
    assert step_line("prior", {"step": 1250, **ROW}) == (
        "prior 01250/20000 6.2% loss 5.412 val 5.53 lr 2.9e-04 gnorm 0.71 221.0k tok/s mem 61.2G data 0.4% eta 1h12m"
    )
