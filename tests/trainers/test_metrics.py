"""metrics.jsonl never holds a step twice, and is always readable."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from schemas.config.train import TrainConfig
from schemas.errors import UsageError
from trainers.metrics import Logs, MetricsLog, check_wandb, step_line
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


class _Wandb(types.ModuleType):
    """What the logs use of the package, which the tests do without."""

    Error = type("Error", (Exception,), {})

    def __init__(self, refusal: str | None = None) -> None:
        super().__init__("wandb")
        self.refusal, self.runs, self.rows = refusal, [], []  # type: ignore[var-annotated]

    def init(self, **options: Any) -> _Wandb:
        if self.refusal is not None:
            raise self.Error(self.refusal)
        self.runs.append(options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.rows.append({"finished": 1.0})


CONFIG = TrainConfig(wandb="project", tensorboard=False, steps=30)


def test_weights_and_biases_goes_on_with_a_run_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 10, 0):  # begun, resumed, begun anew
        logs = Logs(tmp_path, step, CONFIG)
        logs.write({"step": step + 1, "unit": "tok", "loss": 2.0})
        logs.close()
    first, resumed, anew = [run["id"] for run in wandb.runs]
    assert first == resumed != anew
    assert wandb.runs[0]["project"] == "project" and wandb.runs[0]["config"]["steps"] == 30
    assert wandb.rows[2:4] == [{"step": 11.0, "loss": 2.0}, {"finished": 1.0}]


def test_weights_and_biases_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", _Wandb("no API key configured\nmore"))
    with pytest.raises(UsageError, match="no API key configured") as caught:
        Logs(tmp_path, 0, CONFIG)
    assert "WANDB_MODE=offline" in str(caught.value.hint) and "more" not in caught.value.what


def test_weights_and_biases_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_wandb(TrainConfig())
    with pytest.raises(UsageError, match="is not installed"):
        check_wandb(CONFIG)
