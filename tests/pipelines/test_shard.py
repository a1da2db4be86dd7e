"""Every planned clip ends in a shard or as a reject; the bytes depend on videos and recipe alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipelines.ingest import ingest
from pipelines.shard import MANIFEST_NAME, shard, shard_job
from schemas.clips import CLIPS
from schemas.config import Recipe
from schemas.errors import IntegrityError, UsageError
from tests.pipelines.making import CLIPS_PER_VIDEO, CUT, digests, flip, recipe
from vtok import artefacts
from vtok.datasets.shapes import draw_video, encode_avi
from vtok.files import read_table, sha256_of
from vtok.shards.check import check
from vtok.shards.reader import ShardReader
from vtok.video.child import DecodeRun
from vtok.video.errors import VideoError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
Copy = Callable[..., Recipe]


def test_counts_reconcile(made: Recipe) -> None:
    clips, shards = (artefacts.load(made.folder(name)) for name in ("clips", "shards"))
    assert shards.counts["planned"] == clips.counts["clips"]
    assert shards.counts["planned"] == shards.counts["clips"] + shards.counts["rejects"]
    index = artefacts.load_index(made.folder("shards")).to_pylist()
    assert sum(row["rows"] for row in index) == shards.counts["clips"]
    assert shards.facts["splits"] == {
        split: sum(row["rows"] for row in index if row["split"] == split) for split in ("test", "train")
    }
    assert shards.counts["shards"] == len(index) > 2


def test_rejects_are_the_clips_that_the_cut_file_lacks(made: Recipe) -> None:
    rows = artefacts.load_rejects(made.folder("shards")).to_pylist()
    assert {row["source"] for row in rows} == {CUT}
    assert {row["reason"] for row in rows} <= {"corrupt", "missing_frames"}
    assert 1 <= len(rows) <= CLIPS_PER_VIDEO
    assert all(row["clip_id"] and row["stage"] == "shards" for row in rows)


def test_the_finished_manifest_knows_the_files_hashes(made: Recipe) -> None:
    table = read_table(made.folder("shards") / MANIFEST_NAME, schema=CLIPS)
    rejected = {row["clip_id"] for row in artefacts.load_rejects(made.folder("shards")).to_pylist()}
    assert not rejected & set(table["clip_id"].to_pylist())
    assert table.num_rows == artefacts.load(made.folder("shards")).counts["clips"]
    for row in table.to_pylist():
        assert row["source_sha256"] == sha256_of(Path(made.data.root) / row["source"])


def test_stock_webdataset_reads_the_shards(made: Recipe) -> None:
    folder = made.folder("shards")
    index = artefacts.load_index(folder).to_pylist()
    dataset = webdataset.WebDataset([str(folder / row["path"]) for row in index], shardshuffle=False)
    samples = list(dataset)
    assert len(samples) == artefacts.load(folder).counts["clips"]
    for sample in samples:
        meta = json.loads(sample["json"])
        assert sample["__key__"] == meta["clip_id"]
        assert meta["split"] in sample["__url__"]
    assert not any(sample["__key__"].startswith("__") for sample in samples)


def test_frames_are_the_videos_frames(made: Recipe) -> None:
    """Against a second way to the same clip: the drawing itself, at half the size."""
    clip = next(c for c in ShardReader(made.folder("shards"), "train", shuffle=False).clips(0) if c.label == 0)
    number, start = int(clip.meta["source"].split("/")[1][0]), clip.meta["start_frame"]
    drawn = draw_video("BallBounce", number, size=32, num_frames=12, seed=0)[start : start + 4]
    small = drawn.reshape(4, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert clip.video_thwc.shape == (4, 16, 16, 3)
    assert np.abs(clip.video_thwc.astype(float) - small).mean() < 8
    other = draw_video("BallBounce", number, size=32, num_frames=12, seed=0)[(start + 4) % 12 :][:4]
    wrong = other.reshape(4, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(clip.video_thwc.astype(float) - wrong).mean() > np.abs(clip.video_thwc - small).mean()


def test_one_worker_makes_the_same_bytes(made: Recipe, copy_of: Copy) -> None:
    settings = copy_of("clips", cluster__workers=1)
    shard(settings)
    assert digests(settings.folder("shards")) == digests(made.folder("shards"))


def test_a_rerun_changes_nothing_and_a_damaged_shard_is_made_again(made: Recipe, copy_of: Copy) -> None:
    settings = copy_of("clips", "shards")
    folder = settings.folder("shards")
    before = digests(folder)
    shard(settings)
    assert digests(folder) == before
    (folder / "_vtok.json").unlink()
    (folder / "train-00001.tar").write_bytes((folder / "train-00001.tar").read_bytes()[:5000])
    (folder / "train-00002.tar").unlink()
    shard(settings)
    assert digests(folder) == before


def test_a_flipped_bit_in_an_unsealed_shard_is_found(made: Recipe, copy_of: Copy) -> None:
    """Without a card nothing vouches for a finished shard but the shard itself."""
    settings = copy_of("clips", "shards")
    folder = settings.folder("shards")
    before = digests(folder)
    for name in ("_vtok.json", "_index.table", "_rejects.table"):
        (folder / name).unlink()
    assert len(list(folder.glob("*.tar"))) <= 7
    for number, name in enumerate(sorted(p.name for p in folder.glob("*.tar"))):
        flip(folder / name, 0.05 + 0.15 * number)
    shard(settings)
    assert digests(folder) == before


def test_a_flipped_bit_in_a_sealed_shard_is_seen_by_readers(copy_of: Copy) -> None:
    settings = copy_of("clips", "shards")
    flip(settings.folder("shards") / "train-00001.tar", 0.4)
    with pytest.raises(IntegrityError) as caught:
        list(ShardReader(settings.folder("shards"), "train").clips(0))
    assert "train-00001.tar" in caught.value.at


def test_files_that_vanish_or_change_after_ingest_become_rejects(made: Recipe, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made.data.root, tmp_path / "videos"))
    settings = recipe(root, tmp_path / "run")
    ingest(settings)
    (root / "Ball/1.avi").unlink()
    with (root / "Slide/2.avi").open("ab") as stream:
        stream.write(b"more")
    card = shard(settings)
    rows = artefacts.load_rejects(settings.folder("shards")).to_pylist()
    reasons = {
        source: {row["reason"] for row in rows if row["source"] == source} for source in ("Ball/1.avi", "Slide/2.avi")
    }
    assert reasons == {"Ball/1.avi": {"vanished"}, "Slide/2.avi": {"changed"}}
    assert sum(row["source"] == "Ball/1.avi" for row in rows) == CLIPS_PER_VIDEO
    assert card.counts["planned"] == card.counts["clips"] + card.counts["rejects"]


def test_a_timeout_is_tried_again_on_rerun(tmp_path: Path) -> None:
    """A limit of no time at all cannot be had, so the rejects are put there as a slow machine would leave them."""
    root = tmp_path / "videos"
    for number in range(2):
        frames = draw_video("BallBounce", number, size=32, num_frames=12, seed=0)
        (root / "Ball").mkdir(parents=True, exist_ok=True)
        (root / "Ball" / f"{number}.avi").write_bytes(encode_avi(frames, 8))
    settings = recipe(root, tmp_path / "run", data__test_fraction=0, shards__clips_per_shard=3, shards__shuffle=False)
    ingest(settings)
    shard(settings)
    folder = settings.folder("shards")
    undisturbed = digests(folder)

    from pipelines import shard as module

    plan = artefacts.load_plan(folder)
    job = shard_job(settings)
    worker = job.worker(*job.init)

    class Failed(list[object]):
        sha256 = ""

    class Slow:
        def decode(self, path: str, rows: list[object], **options: object) -> object:
            return Failed((i, VideoError("timeout", "more than 60 s of CPU time")) for i in range(len(rows)))

    worker.decoder.child = Slow()  # type: ignore[assignment]
    units = job.units
    (folder / "_vtok.json").unlink()
    slow = worker.make(units[1].name, units[1].payload)
    parts = [module.recover_shard(folder / unit.name, plan) for unit in units]
    assert parts[1].rejects == slow.rejects and len(slow.rejects) == 3
    artefacts.seal(folder, plan, parts, counts={"clips": 3, "planned": 6, "shards": 2}, facts={})
    assert digests(folder) != undisturbed

    card = shard(settings)
    assert card.counts["rejects"] == 0 and card.counts["clips"] == 6
    assert digests(folder) == undisturbed


def test_a_killed_decoding_process_costs_no_clip(made: Recipe, copy_of: Copy) -> None:
    """The kernel kills somebody when the machine is out of memory; which clips are lost must not depend on that."""
    settings = copy_of("clips")
    folder = settings.folder("shards")
    job = shard_job(settings)
    worker = job.worker(*job.init)
    child, kills = worker.decoder.child, []

    class Killing:
        def decode(self, path: str, rows: list[object], **options: object) -> DecodeRun:
            run = child.decode(path, rows, **options)
            messages = run._messages

            def killed() -> Iterator[tuple[int, object]]:
                for number, message in enumerate(messages()):
                    yield message
                    if number == 0 and not kills:
                        os.kill(child._process.pid, signal.SIGKILL)
                        kills.append(path)
                        raise VideoError("memory", "as the child's end is told")

            run._messages = killed  # type: ignore[method-assign, assignment]
            return run

    worker.decoder.child = Killing()
    for unit in job.units:
        worker.make(unit.name, unit.payload)
    child.close()
    assert len(kills) == 1
    assert {name: digest for name, digest in digests(folder).items() if name.endswith(".tar")} == {
        name: digest for name, digest in digests(made.folder("shards")).items() if name.endswith(".tar")
    }


def test_an_unfinished_manifest_is_refused(copy_of: Copy) -> None:
    with pytest.raises(UsageError, match="no such folder") as caught:
        shard(copy_of())
    assert "vtok data ingest" in caught.value.hint
    settings = copy_of("clips")
    (settings.folder("clips") / "_vtok.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        shard(settings)


def test_what_the_jobs_made_passes_the_check(made: Recipe) -> None:
    for stage in ("clips", "shards"):
        findings = check(made.folder(stage))
        assert findings.problems == [] and findings.notes == [] and findings.duplicates == []
    assert artefacts.load(made.folder("shards")).facts["duplicates"] == {"groups": 0, "copies": 0, "across_splits": 0}


@pytest.mark.parametrize("encoding", ["jpeg", "h264"])
def test_exact_copies_are_reported(
    made: Recipe, tmp_path: Path, encoding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root, first, second = tmp_path / "videos", *(Path(made.data.root) / "Ball" / f"{i}.avi" for i in range(2))
    places = {"train/a.avi": first, "test/b.avi": first, "train/c.avi": second, "train/d.avi": second}
    for name, source in places.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)
    settings = recipe(root, tmp_path / "run", shards__encoding=encoding)
    ingest(settings)
    card = shard(settings)
    assert card.facts["duplicates"] == {"groups": 2, "copies": 2, "across_splits": 1}
    assert "leakage: 1 file with an exact copy in another split" in capfd.readouterr().err
    findings = check(settings.folder("shards"))
    assert findings.problems == []
    assert [(group.sources, group.splits) for group in findings.duplicates] == [
        (["test/b.avi", "train/a.avi"], ["test", "train"]),
        (["train/c.avi", "train/d.avi"], ["train"]),
    ]
