"""A job that asks for NVDEC where there is none goes on, says so once, and makes the same clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines import shard as shard_module
from pipelines.ingest import ingest
from pipelines.shard import shard
from schemas.config import Recipe
from tests.pipelines.making import recipe
from vtok.shards.reader import ShardReader
from vtok.video.frames_ffmpeg import cuda_problem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180), pytest.mark.usefixtures("ray_running")]


def test_no_nvdec(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if cuda_problem() is None:  # a machine with a GPU, which the workers use: the note is still tested
        monkeypatch.setattr(shard_module, "cuda_problem", lambda: "no device")
    asking = recipe(corpus, tmp_path / "asking", shards__decoder="ffmpeg", shards__hwaccel="cuda")
    plain = recipe(corpus, tmp_path / "plain", shards__decoder="ffmpeg")
    ingest(asking)
    shutil.copytree(asking.folder("clips"), plain.folder("clips"))
    capsys.readouterr()
    count = shard(asking).counts["clips"]
    said = capsys.readouterr().err
    assert said.count("cannot use NVDEC") == 1
    assert "decodes on the CPU" in said
    assert shard(plain).counts["clips"] == count > 0
    assert "NVDEC" not in capsys.readouterr().err
    assert _clips(asking) == _clips(plain)


def _clips(run: Recipe) -> dict[str, bytes]:
    clips = ShardReader(run.folder("shards"), "train", shuffle=False).clips(0)
    return {clip.clip_id: clip.video_thwc.tobytes() for clip in clips}
