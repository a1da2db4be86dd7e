"""Layouts through the jobs themselves: missing videos, and arrays beside the frames. Their lists: tests/datasets."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from schemas.errors import UsageError
from tests.pipelines.making import digests, recipe
from tests.video.making import write_video
from vtok import artefacts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]


def _write(root: Path) -> dict[str, np.ndarray]:
    """Three videos with spectra, one of them with too few, and spectra without a video."""
    spectra = {}
    for number, name in enumerate(("train/a", "train/b", "test/c", "test/gone")):
        rows = 9 if name == "train/b" else 16
        spectra[f"video/{name}.mp4"] = np.random.default_rng(number).random((rows, 5, 3)).astype(np.float32)
        (root / f"stft/{name}.pickle").parent.mkdir(parents=True, exist_ok=True)
        (root / f"stft/{name}.pickle").write_bytes(pickle.dumps(spectra[f"video/{name}.mp4"]))
        (root / f"video/{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        if name != "test/gone":
            write_video(root / f"video/{name}.mp4", 16, size=(48, 48))
    return spectra


def test_spectra_reach_the_shards_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    spectra = _write(tmp_path / "data")
    settings = recipe(tmp_path / "data", tmp_path / "run", data__layout="tats_stft")
    length = settings.data.num_frames
    clips, shards = ingest(settings), shard(settings)
    assert clips.counts["files"] == 4 and clips.counts["files_with_clips"] == 3
    (missing,) = artefacts.load_rejects(settings.folder("clips")).to_pylist()
    assert (missing["source"], missing["reason"]) == ("video/test/gone.mp4", "missing")
    lost = artefacts.load_rejects(settings.folder("shards")).to_pylist()
    assert {(row["source"], row["reason"]) for row in lost} == {("video/train/b.mp4", "missing_frames")}
    assert shards.counts["planned"] == shards.counts["clips"] + len(lost)
    seen = 0
    for path in settings.folder("shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = {
                member.name: tar.extractfile(member) for member in tar if member.name.endswith((".npy", ".json"))
            }
            data = {name: stream.read() for name, stream in members.items() if stream}
        for name, block in data.items():
            if name.endswith(".stft.npy"):
                meta = json.loads(data[name.replace(".stft.npy", ".json")])
                start, stride = meta["start_frame"], meta["frame_stride"]
                wanted = spectra[meta["source"]][start : start + length * stride : stride]
                np.testing.assert_array_equal(np.load(io.BytesIO(block)), wanted)
                seen += 1
    assert seen == shards.counts["clips"] > 0
    before = digests(settings.folder("shards"))
    (settings.folder("shards") / "_vtok.json").unlink()
    next(settings.folder("shards").glob("train-*.tar")).unlink()
    shard(settings)
    assert digests(settings.folder("shards")) == before


def test_a_dataset_of_which_nothing_is_there_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").write_text("label,youtube_id,time_start,time_end\nzumba,abcdefghijk,1,11\n")
    settings = recipe(tmp_path / "data", tmp_path / "run", data__layout="kinetics")
    with pytest.raises(UsageError, match="none of the 1 videos"):
        ingest(settings)
    assert not settings.folder("clips").exists()
