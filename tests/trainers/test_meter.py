"""MFU where the GPU and the model's FLOPs are known."""

from __future__ import annotations

import pytest

from schemas.config.train import TrainConfig
from tests.trainers.tiny_task import TinyTask
from trainers.meter import Meter, peak_flops
from trainers.metrics import step_line


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("NVIDIA L40S", 362e12),
        ("A card of next year", None),
    ],
)
def test_peaks(gpu: str, peak: float | None) -> None:
    assert peak_flops(gpu) == peak


def test_mfu_is_flops_over_the_peak_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TinyTask(TrainConfig(batch_size=8), dropout=0.0, events=[])
    task.flops_per_unit = lambda step: 2.2e9  # type: ignore[method-assign]
    meter = Meter(task, 10, 0)
    assert "mfu" not in meter.row(1, {}), "the CPU's peak is not known"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    row = Meter(task, 10, 0).row(1, {"loss": 1.0, "lr": 1e-4, "gnorm": 1.0})
    assert row["mfu"] == pytest.approx(row["rate"] * 2.2e9 / (2 * 989e12))
    assert f"tok/s MFU {100 * row['mfu']:.1f}% mem" in step_line("prior", row)
    task.flops_per_unit = lambda step: None  # type: ignore[method-assign]
    assert "mfu" not in Meter(task, 10, 0).row(1, {})


def test_the_rate_counts_what_the_step_was_trained_on() -> None:
    task = TinyTask(TrainConfig(batch_size=8), dropout=0.0, events=[])
    whole = Meter(task, 10, 0)
    shown = whole.row(4, {})
    task.units_at = lambda step: {3: 20.0}[step]  # type: ignore[method-assign]
    part = Meter(task, 10, 0)
    found = part.row(4, {})
    assert shown["rate"] == pytest.approx(whole._rate * 40)
    assert found["rate"] == pytest.approx(part._rate * 20)
