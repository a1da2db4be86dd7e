"""Drawn files through the jobs: `ingest` and `shard` account for every clip, and what lies in the shards is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from tests.oracle.check import Looker
from tests.oracle.draw import draw
from tests.pipelines.making import recipe
from vtok import artefacts
from vtok.shards.reader import ShardReader

SEED, FILES, SIDE, LENGTH = 5, 30, 32, 4


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_running")
@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_what_jobs_write_is_right(decoder: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    cases = {case.path.name: case for case in (draw(SEED, number, root) for number in range(FILES))}
    for path in root.iterdir():  # what files were made from
        if path.name not in cases:
            path.unlink()
    settings = recipe(
        root,
        tmp_path / "run",
        data__num_frames=LENGTH,
        data__resolution=SIDE,
        shards__encoding="raw",
        shards__decoder=decoder,
    )
    ingest(settings)
    shard(settings)
    clips, shards = (artefacts.load(settings.folder(stage)) for stage in ("clips", "shards"))
    assert clips.counts["files"] == FILES == clips.counts["files_with_clips"] + clips.counts["rejected_files"]
    assert clips.counts["clips"] == shards.counts["planned"] == shards.counts["clips"] + shards.counts["rejects"]
    lookers = {name: Looker(case.truth, SIDE) for name, case in cases.items()}
    looked = 0
    readers = (ShardReader(settings.folder("shards"), split, shuffle=False) for split in shards.facts["splits"])
    for clip in (clip for reader in readers for clip in reader.clips(epoch=0)):
        truth, looker = cases[clip.meta["source"]].truth, lookers[clip.meta["source"]]
        first = clip.meta["start_frame"]
        for index, frame in enumerate(clip.video_thwc, first):
            if index not in truth.free:
                assert looker.fault(frame, truth.numbers[index]) is None, (clip.meta["source"], index)
                looked += 1
    assert looked > 2 * FILES * LENGTH
