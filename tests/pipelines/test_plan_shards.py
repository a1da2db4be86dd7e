"""The plan of the shard job: splits apart, videos whole, boundaries that nothing but manifest and recipe moves."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.manifest import PLANNED_COLUMNS, Manifest, ManifestPart
from pipelines.plan_shards import plan_shards
from pipelines.runtime import Unit
from schemas.clips import CLIPS
from schemas.config.data import DataConfig, ShardsConfig
from schemas.errors import IntegrityError
from vtok.files import sha256_of, write_table
from vtok.shards.estimate import clip_bytes

DATA = DataConfig(root="nowhere", resolution=128, num_frames=16)
SCHEMA = pa.schema([CLIPS.field(name) for name in PLANNED_COLUMNS])


def manifest(videos: int = 8, clips: int = 3, **changes: object) -> pa.Table:
    """Videos of 16-frame clips in a row; every fourth belongs to `test`."""
    count = videos * clips
    video, clip = np.divmod(np.arange(count), clips)
    columns: dict[str, object] = {
        "source": [f"{number:05d}.avi" for number in video],
        "split": np.where(video % 4 == 0, "test", "train"),
        "source_bytes": np.full(count, 100_000),
        "fps": np.full(count, 25.0),
        "height": np.full(count, 240),
        "width": np.full(count, 320),
        "has_audio": np.zeros(count, bool),
        "start_frame": clip * 16,
        "frame_stride": np.ones(count, np.int32),
        "start_time": clip * 16 / 25,
        "end_time": (clip + 1) * 16 / 25,
        "num_frames": np.full(count, 16),
        **changes,
    }
    return pa.table({name: pa.array(columns[name]).cast(SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def plan(clips: pa.Table, seed: int = 0, **config: object) -> list[Unit]:
    return plan_shards(clips, DATA, ShardsConfig.model_validate(config), seed)


def rows(units: list[Unit]) -> list[list[int]]:
    return [unit.payload.tolist() for unit in units]


def test_splits_apart_and_videos_in_sequence() -> None:
    clips = manifest()
    units = plan(clips, clips_per_shard=4)
    names = ["test-00000.tar", "test-00001.tar", *(f"train-0000{i}.tar" for i in range(5))]
    assert [unit.name for unit in units] == names
    assert [unit.items for unit in units] == [4, 2, 4, 4, 4, 4, 2]
    order = [row for unit in rows(units) for row in unit]
    assert sorted(order) == list(range(24))
    sources = clips["source"].take(pa.array(order)).to_pylist()
    assert sum(a != b for a, b in itertools.pairwise(sources)) == 7, "a video's clips in sequence"
    for unit in units:
        assert set(clips["split"].take(pa.array(unit.payload)).to_pylist()) == {unit.name.split("-")[0]}
    assert rows(plan(clips, clips_per_shard=4)) == rows(units)
    assert rows(plan(clips, 1, clips_per_shard=4)) != rows(units)


def test_the_order_of_videos_is_that_of_a_hash() -> None:
    clips = manifest(videos=40, clips=1, split=["train"] * 40)
    order = [row for unit in rows(plan(clips, 5, clips_per_shard=7)) for row in unit]
    expected = sorted(range(40), key=lambda v: hashlib.sha256(f"5/{v:05d}.avi".encode()).hexdigest())
    assert order == expected
    plain = [row for unit in rows(plan(clips, 5, clips_per_shard=7, shuffle=False)) for row in unit]
    assert plain == list(range(40))


def test_shards_of_a_size_follow_the_estimate_alone() -> None:
    one = clip_bytes(DATA, ShardsConfig())
    units = plan(manifest(), target_bytes=5 * one, clips_per_shard=2)
    assert [unit.items for unit in units] == [5, 1, 5, 5, 5, 3]
    assert [unit.bytes for unit in units] == [one * unit.items for unit in units]
    assert [unit.items for unit in plan(manifest(), target_bytes=1 << 16)] == [1] * 24, "a clip is never cut"
    heard = plan(manifest(has_audio=[True] * 24), target_bytes=5 * one, audio_rate=44_100)
    assert len(heard) > len(units)


@pytest.mark.parametrize(
    ("config", "kib"),
    [
        ({"encoding": "jpeg"}, 137),
        ({"encoding": "jpeg", "jpeg_quality": 90}, 81),
        ({"encoding": "h264"}, 11),
        ({"encoding": "h264", "h264_crf": 12}, 21),
        ({"encoding": "raw"}, 367),
    ],
)
def test_the_estimate_meets_the_measured_sizes(config: dict[str, object], kib: int) -> None:
    overhead = 16 << 10
    assert 0 <= clip_bytes(DATA, ShardsConfig.model_validate(config)) - (kib << 10) < overhead


def test_better_quality_is_larger_and_never_larger_than_raw() -> None:
    for encoding, key, qualities in (("jpeg", "jpeg_quality", range(1, 101)), ("h264", "h264_crf", range(51, -1, -1))):
        configs = [ShardsConfig.model_validate({"encoding": encoding, key: quality}) for quality in qualities]
        sizes = [clip_bytes(DATA, config) for config in configs]
        assert sizes == sorted(sizes)
        assert sizes[-1] <= 3 * 16 * 128 * 128 + 32_000


def test_cost_counts_the_frames_that_lead_to_a_clip() -> None:
    """Clips at the end of a long video, in a shard of their own, are jumped to; a short video is decoded whole."""
    starts = np.array([0, 16, 100_000, 100_016])
    clips = manifest(videos=1, clips=4, start_frame=starts, start_time=starts / 25, end_time=(starts + 16) / 25)
    near, far = plan(clips, clips_per_shard=2)
    assert near.frames == 32
    assert far.frames == 32 + 60, "clips in a row are jumped to once"
    assert far.cost > near.cost
    short = plan(manifest(videos=1, clips=3), clips_per_shard=2)
    assert [unit.frames for unit in short] == [32, 48], "the second shard needs the first two clips' frames, too"
    large = plan(manifest(videos=1, clips=3, height=[1080] * 3, width=[1920] * 3), clips_per_shard=2)
    assert large[0].cost > 5 * short[0].cost


def test_clips_by_rate_are_placed_by_time() -> None:
    nothing = [None] * 24
    units = plan(manifest(start_frame=nothing, frame_stride=nothing), clips_per_shard=100)
    assert [unit.frames for unit in units] == [2 * 48, 6 * 48]


def test_an_empty_manifest_has_no_shards() -> None:
    assert plan(SCHEMA.empty_table()) == []


def test_planning_holds_no_row_as_an_object() -> None:
    """Python objects for rows would take kilobytes a clip; ten million clips have to fit."""
    clips = manifest(videos=20_000, clips=10)
    tracemalloc.start()
    units = plan(clips, clips_per_shard=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(unit.items for unit in units) == 200_000
    assert peak < 300 * 200_000


def write_parts(folder: Path, sizes: list[int]) -> Manifest:
    parts = []
    for number, size in enumerate(sizes):
        row = {field.name: None for field in CLIPS} | {
            "codec": "x", "stream": 0, "source_bytes": 1, "fps": 1.0, "height": 1, "width": 1, "frames": 1,
            "frames_exact": True, "duration": 1.0, "rotation": 0, "has_audio": False, "start_time": 0.0,
            "end_time": 1.0, "num_frames": 1, "split": "train", "source": f"{number}.avi",
        }  # fmt: skip
        table = pa.Table.from_pylist([{**row, "clip_id": f"{number}-{i}"} for i in range(size)], schema=CLIPS)
        write_table(folder / f"p{number}", table)
        parts.append(ManifestPart(f"p{number}", size, sha256_of(folder / f"p{number}")))
    return Manifest(folder, parts)


def test_rows_are_taken_by_number_over_all_parts(tmp_path: Path) -> None:
    found = write_parts(tmp_path, [3, 0, 5])
    assert len(found) == 8
    ids = found.columns(("clip_id",))["clip_id"].to_pylist()
    assert ids == ["0-0", "0-1", "0-2", "2-0", "2-1", "2-2", "2-3", "2-4"]
    for wanted in ([7, 0, 3, 2, 0], [4], [], list(range(8))):
        taken = found.take(np.array(wanted, np.int64))
        assert [row["clip_id"] for row in taken] == [ids[number] for number in wanted]


def test_a_manifest_part_that_was_swapped_is_noticed(tmp_path: Path) -> None:
    found = write_parts(tmp_path, [3, 3])
    (tmp_path / "p0").write_bytes((tmp_path / "p1").read_bytes())
    with pytest.raises(IntegrityError):
        found.take(np.array([1]))
