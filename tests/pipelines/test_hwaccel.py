"""A job that asks for NVDEC where there is none goes on, and says so once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import shard as shard_module
from pipelines.ingest import ingest
from pipelines.shard import shard
from tests.pipelines.making import recipe
from vtok.video.ffmpeg_run import cuda_problem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]


def test_no_nvdec(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if cuda_problem() is None:  # a machine with a GPU, which the workers use: the note is still tested
        monkeypatch.setattr(shard_module, "cuda_problem", lambda: "no device")
    asking = recipe(corpus, tmp_path / "asking", shards__decoder="ffmpeg", shards__hwaccel="cuda")
    clips = ingest(asking)
    capsys.readouterr()
    counts = shard(asking).counts
    said = capsys.readouterr().err
    assert said.count("cannot use NVDEC") == 1
    assert "decodes on the CPU" in said
    assert clips.counts["clips"] == counts["clips"] + counts["rejects"] > counts["rejects"]
