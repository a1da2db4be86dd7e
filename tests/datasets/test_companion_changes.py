"""What lies beside a video is part of what a clip is made from: a change of it shows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.ingest import ingest, ingest_job
from pipelines.shard import shard
from schemas.clips import CLIPS
from schemas.config import Recipe
from schemas.errors import UsageError
from tests.pipelines import here
from tests.pipelines.making import recipe
from tests.video.making import write_video
from vtok import artefacts
from vtok.files import read_table
from vtok.shards.writer import samples_digest
from vtok.video.media.companions import rows_digest

FRAMES, LENGTH = 12, 4


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    here.use(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One video with a row of numbers for each of its frames."""
    folder = tmp_path / "data"
    (folder / "video/train").mkdir(parents=True)
    (folder / "stft/train").mkdir(parents=True)
    write_video(folder / "video/train/a.mp4", FRAMES, fps=25, size=(48, 48))
    write_rows(folder, rows(0))
    return folder


def rows(seed: int, frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, 5, 3))


def write_rows(root: Path, held: np.ndarray) -> None:
    (root / "stft/train/a.pickle").write_bytes(pickle.dumps(held))


def settings(root: Path, out: Path) -> Recipe:
    return recipe(root, out, data__layout="tats_stft", data__num_frames=LENGTH)


def sharded(run: Recipe) -> list[dict[str, Any]]:
    """Rows of the completed manifest."""
    ingest(run)
    shard(run)
    return read_table(run.folder("shards") / "_clips.table", schema=CLIPS).to_pylist()


def test_every_clip_says_what_it_has_from_its_companions(root: Path, tmp_path: Path) -> None:
    first = settings(root, tmp_path / "first")
    clips = sharded(first)
    assert len(clips) == FRAMES // LENGTH
    for clip in clips:
        mine = rows(0)[clip["start_frame"] : clip["start_frame"] + LENGTH]
        assert clip["companions_sha256"] == rows_digest({"stft": mine})
        assert clip["companion_bytes"] == (root / "stft/train/a.pickle").stat().st_size
    write_rows(root, rows(1))  # as many bytes
    second = settings(root, tmp_path / "second")
    others = sharded(second)
    assert [clip["source_sha256"] for clip in others] == [clip["source_sha256"] for clip in clips]
    assert not {clip["companions_sha256"] for clip in others} & {clip["companions_sha256"] for clip in clips}
    digests = [samples_digest(run.folder("shards") / "train-00000.tar") for run in (first, second)]
    assert digests[0] != digests[1], "tokens that are updated from the shards know it, too"


def test_a_change_between_ingest_and_shard_is_a_reject(root: Path, tmp_path: Path) -> None:
    run = settings(root, tmp_path / "run")
    ingest(run)
    write_rows(root, rows(0, FRAMES + 1))
    shard(run)
    rejects = artefacts.load_rejects(run.folder("shards")).to_pylist()
    assert {reject["reason"] for reject in rejects} == {"changed"}
    assert len(rejects) == FRAMES // LENGTH


def test_a_change_after_ingest_is_another_manifest(root: Path, tmp_path: Path) -> None:
    run = settings(root, tmp_path / "run")
    ingest(run)
    before = ingest_job(run).plan.fingerprint
    write_rows(root, rows(0, FRAMES + 1))
    assert ingest_job(run).plan.fingerprint != before
    with pytest.raises(UsageError, match="files"):
        ingest(run)


def test_the_digest_depends_on_names_types_shapes_and_values() -> None:
    array = np.arange(6, dtype=np.int32)
    variants = [
        {"a": array},
        {"b": array},
        {"a": array.view(np.float32)},
        {"a": array.reshape(2, 3)},
        {"a": array + 1},
        {"a": array, "b": array},
    ]
    assert len({rows_digest(variant) for variant in variants}) == len(variants)
    assert rows_digest({"a": array, "b": array + 1}) == rows_digest({"b": array + 1, "a": array})
    assert rows_digest({}) is None
