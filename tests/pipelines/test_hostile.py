"""A folder of odd, damaged and lying videos: the jobs end, and everything that was found is accounted for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from schemas.config import Recipe
from tests.pipelines.making import recipe
from tests.video.hostile import SIDE, Hostile, write_hostile
from tests.video.making import numbers, write_video
from vtok import artefacts
from vtok.datasets.base import find_videos
from vtok.shards.check import check
from vtok.shards.reader import ShardReader

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
LENGTH = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Hostile]]:
    root = tmp_path_factory.mktemp("hostile") / "root"
    cases = write_hostile(root)
    outside = write_video(root.parent / "outside.mp4", 8, size=(SIDE, SIDE))
    (root / "leaves.mp4").symlink_to(outside)
    (root / "folder").symlink_to(root.parent)
    locked = write_video(root / "locked.mp4", 8, size=(SIDE, SIDE))
    if os.geteuid():
        locked.chmod(0)
    return root, cases


@pytest.fixture(scope="module", params=["pyav", pytest.param("ffmpeg", marks=pytest.mark.soak)])
def run(request: pytest.FixtureRequest, corpus: tuple[Path, dict[str, Hostile]], ray_running: None) -> Recipe:
    out = corpus[0].parent / request.param
    settings = recipe(
        corpus[0],
        out,
        data__num_frames=LENGTH,
        data__resolution=SIDE,
        shards__encoding="raw",
        shards__decoder=request.param,
    )
    ingest(settings)
    shard(settings)
    return settings


def test_counts_reconcile(run: Recipe, corpus: tuple[Path, dict[str, Hostile]]) -> None:
    clips, shards = (artefacts.load(run.folder(stage)) for stage in ("clips", "shards"))
    assert clips.counts["files"] == len(find_videos(corpus[0])) >= len(corpus[1]) + 3
    assert clips.counts["files"] == clips.counts["files_with_clips"] + clips.counts["rejected_files"]
    assert shards.counts["planned"] == clips.counts["clips"]
    assert shards.counts["planned"] == shards.counts["clips"] + shards.counts["rejects"]
    for stage in ("clips", "shards"):
        assert list(check(run.folder(stage)).problems) == []


def test_rejects_have_the_right_reasons(run: Recipe, corpus: tuple[Path, dict[str, Hostile]]) -> None:
    reasons = {row["source"]: row["reason"] for row in artefacts.load_rejects(run.folder("clips")).to_pylist()}
    assert reasons["leaves.mp4"] == reasons["folder"] == "unsafe_path"
    if os.geteuid():
        assert reasons["locked.mp4"] == "unreadable"
    for name, case in corpus[1].items():
        source = case.path.relative_to(corpus[0]).as_posix()
        if case.reason is not None:
            assert reasons[source] == case.reason, name
        elif len(case.numbers) < LENGTH:
            assert reasons[source] == "too_short", name
        else:
            assert source not in reasons, name


def test_no_clip_has_a_wrong_frame(run: Recipe, corpus: tuple[Path, dict[str, Hostile]]) -> None:
    cases = {case.path.relative_to(corpus[0]).as_posix(): case for case in corpus[1].values()}
    looked_at = 0
    splits = artefacts.load(run.folder("shards")).facts["splits"]
    for split in splits:
        for clip in ShardReader(run.folder("shards"), split, shuffle=False).clips(epoch=0):
            case = cases.get(clip.meta["source"])
            if case is None or case.height != case.width:
                continue  # only squares show their numbers after the crop
            start = clip.meta["start_frame"]
            assert numbers(clip.video_thwc) == list(case.numbers[start : start + LENGTH]), clip.clip_id
            looked_at += 1
    assert looked_at >= 20
