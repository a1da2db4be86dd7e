"""Every file that is found ends as clips or as a reject with its reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.ingest import ingest, read_manifest_parts
from schemas.clips import CLIPS
from schemas.config import Recipe
from schemas.errors import UsageError
from tests.pipelines.making import AT_INGEST, CLIPS_PER_VIDEO, CUT, digests, flip, recipe
from tests.video.test_orientation import write_turned
from vtok import artefacts
from vtok.datasets.shapes import CLASSES as SHAPES
from vtok.datasets.shapes import draw_video, encode_avi, write_shapes
from vtok.files import write_bytes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
Copy = Callable[..., Recipe]


def manifest(settings: Recipe) -> pa.Table:
    folder = settings.folder("clips")
    return read_manifest_parts(folder, artefacts.load_index(folder)["path"].to_pylist())


def test_counts_reconcile(made: Recipe) -> None:
    card = artefacts.load(made.folder("clips"), "clips")
    assert card.counts["files"] == 12, "notes.txt is no video"
    assert card.counts["files"] == card.counts["files_with_clips"] + card.counts["rejects"]
    assert card.counts["clips"] == 9 * CLIPS_PER_VIDEO
    assert card.facts["classes"] == ["Ball", "Slide"]
    assert sum(card.facts["splits"].values()) == card.counts["clips"]
    assert set(card.facts["splits"]) == {"train", "test"}


def test_rejects_say_why(made: Recipe) -> None:
    rows = artefacts.load_rejects(made.folder("clips")).to_pylist()
    assert {row["source"]: row["reason"] for row in rows} == AT_INGEST
    assert {row["stage"] for row in rows} == {"clips"}
    assert {row["clip_id"] for row in rows} == {None}
    short = next(row for row in rows if row["reason"] == "too_short")
    assert short["detail"] == "2 frames, one clip needs 4"
    assert not any(made.data.root in row["detail"] for row in rows), "no absolute path: it would change the bytes"


def test_the_manifest(made: Recipe) -> None:
    table = manifest(made)
    assert table.schema.equals(CLIPS)
    rows = table.to_pylist()
    assert len({row["clip_id"] for row in rows}) == len(rows)
    first = [row for row in rows if row["source"] == "Ball/0.avi"]
    assert [row["start_frame"] for row in first] == [0, 4, 8]
    assert [(row["start_time"], row["end_time"]) for row in first] == [(0, 0.5), (0.5, 1), (1, 1.5)]
    assert {(row["height"], row["width"], row["frames"], row["fps"], row["codec"]) for row in first} == {
        (32, 32, 12, 8.0, "mpeg4")
    }
    assert {row["label"] for row in first} == {0}
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["source"], set()).add(row["split"])
    assert {len(found) for found in splits.values()} == {1}, "clips of one video belong to one split"
    assert CUT in splits, "only decoding can tell"


def test_the_bytes_depend_neither_on_workers_nor_on_the_place(made: Recipe, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(made.data.root, tmp_path / "moved"))
    for path in elsewhere.rglob("*.avi"):
        os.utime(path, (0, 0))
    one = recipe(elsewhere, tmp_path / "run", cluster__workers=1)
    ingest(one)
    assert digests(one.folder("clips")) == digests(made.folder("clips"))


def test_a_rerun_changes_nothing_and_a_damaged_part_is_made_again(
    made: Recipe, copy_of: Copy, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = copy_of("clips")
    before = digests(settings.folder("clips"))
    ingest(settings)
    assert digests(settings.folder("clips")) == before
    (settings.folder("clips") / "_vtok.json").unlink()
    flip(settings.folder("clips") / "part-00000.parquet", 0.3)
    ingest(settings)
    assert digests(settings.folder("clips")) == before
    assert "part-00000.parquet is damaged and is made again" in capfd.readouterr().err


def test_another_listing_of_files_is_another_plan(copy_of: Copy, tmp_path: Path) -> None:
    settings = copy_of("clips")
    fewer = Path(shutil.copytree(settings.data.root, tmp_path / "fewer"))
    (fewer / "Ball/0.avi").unlink()
    with pytest.raises(UsageError, match=r"made from something else \(inputs\.files"):
        ingest(recipe(fewer, Path(settings.out)))


def test_several_parts(made: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.FILES_PER_UNIT", 5)
    settings = recipe(Path(made.data.root), tmp_path / "run")
    card = ingest(settings)
    assert [row["path"] for row in artefacts.load_index(settings.folder("clips")).to_pylist()] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert manifest(settings).equals(manifest(made))
    assert card.counts["rejects"] == len(AT_INGEST)


def test_ucf101(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    written = write_shapes(root, videos_per_class=8, size=32, num_frames=4)
    settings = recipe(root, tmp_path / "run", data__layout="ucf101")
    card = ingest(settings)
    assert card.counts["files"] == written.videos + len(written.damaged)
    assert card.counts["files_with_clips"] == written.videos == card.counts["clips"]
    assert {row["source"] for row in artefacts.load_rejects(settings.folder("clips")).to_pylist()} == set(
        written.damaged
    )
    assert card.facts["classes"] == sorted(SHAPES)
    assert card.facts["splits"] == {"train": 30, "test": 10}
    for row in manifest(settings).to_pylist():
        group = int(row["source"].split("_g")[1][:2])
        assert row["split"] == ("test" if group > 6 else "train")
        assert row["class_name"] == row["source"].split("/")[0] == card.facts["classes"][row["label"]]


def test_no_folder_no_videos_no_clip(made: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder of videos"):
        ingest(recipe(tmp_path / "none", tmp_path / "a"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no videos in this folder"):
        ingest(recipe(tmp_path / "empty", tmp_path / "b"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.avi").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no clip could be planned from any of the 1 files \(1 empty\)"):
        ingest(recipe(tmp_path / "bad", tmp_path / "c"))
    shutil.copytree(Path(made.data.root) / "Ball", tmp_path / "short" / "Ball")
    for name in ("empty", "text"):
        (tmp_path / "short" / "Ball" / f"{name}.avi").unlink()
    with pytest.raises(
        UsageError, match=r"a clip of 16 frames is longer than every video \(12 frames, one clip needs 16"
    ):
        ingest(recipe(tmp_path / "short", tmp_path / "d", data__num_frames=16))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "d" / "clips").exists(), "what is worth nothing does not stand in the way of the next try"
    assert ingest(recipe(tmp_path / "short", tmp_path / "d")).counts["clips"] > 0


def test_filters_of_what_frames_show(tmp_path: Path) -> None:
    """Every window of every shot is a clip or a reject; files found = files with clips + rejected files."""
    root = tmp_path / "videos"
    moving, resting = (draw_video(kind, 1, size=64, num_frames=16, seed=0) for kind in ("BallBounce", "SquareSlide"))
    rest, dark = np.repeat(resting[:1], 8, axis=0), np.zeros((8, 64, 64, 3), np.uint8)
    barred = moving.copy()
    barred[:, :12] = barred[:, -12:] = 0
    write_bytes(root / "mixed.avi", encode_avi(np.concatenate([moving, dark, rest]), 8))
    write_bytes(root / "dark.avi", encode_avi(np.concatenate([dark, dark]), 8))
    write_bytes(root / "bars.avi", encode_avi(barred, 8))
    (root / "text.avi").write_text("no video")
    settings = recipe(
        root,
        tmp_path / "run",
        data__scene_threshold=5.0,
        data__min_motion=0.02,
        data__max_black=0.5,
        data__letterbox="crop",
        data__test_fraction=0.0,
    )
    card = ingest(settings)
    rejects = artefacts.load_rejects(settings.folder("clips")).to_pylist()
    rows = manifest(settings).to_pylist()
    starts = lambda source: [row["start_frame"] for row in rows if row["source"] == source]
    assert starts("mixed.avi") == [0, 4, 8, 12]
    assert starts("bars.avi") == [0, 4, 8, 12]
    found = {(row["source"], row["reason"], row["clip_id"] is None) for row in rejects}
    assert found == {
        ("mixed.avi", "black", False),
        ("mixed.avi", "still", False),
        ("dark.avi", "black", False),
        ("text.avi", "unreadable", True),
    }
    assert len(rejects) == 2 + 2 + 4 + 1
    assert {row["source"]: row["bbox"] for row in rows}["mixed.avi"] is None
    left, top, right, bottom = {row["source"]: row["bbox"] for row in rows}["bars.avi"]
    assert (left, right) == (0, 64) and abs(top - 12) <= 1 and abs(bottom - 52) <= 1
    assert {**card.counts, "bytes": 0} == {
        "files": 4,
        "files_with_clips": 2,
        "rejected_files": 2,
        "other_files": 0,
        "clips": 8,
        "rejects": 9,
        "bytes": 0,
    }
    assert len({row["clip_id"] for row in rows + rejects}) == 8 + 8 + 1


def test_the_manifest_says_how_frames_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_turned(root / "mirrored.mp4", (0, 1, 1, 0))
    write_turned(root / "tilted.mp4", (0.8, -0.6, 0.6, 0.8))  # 36.9 degrees counter-clockwise
    settings = recipe(root, tmp_path / "run", data__num_frames=2, data__test_fraction=0.0)
    ingest(settings)
    rows = {row["source"]: row for row in manifest(settings).to_pylist()}
    seen = lambda row: (row["height"], row["width"], row["rotation"], row["mirrored"], row["tilt"], row["pixel_aspect"])
    assert seen(rows["mirrored.mp4"]) == (96, 64, 90, True, None, 1.0)
    assert seen(rows["tilted.mp4"]) == (64, 96, 0, False, pytest.approx(36.9, abs=0.1), 1.0)
    assert "1 video to be turned by other angles than right ones" in capsys.readouterr().err
    assert rows["mirrored.mp4"]["bbox"] is None


def test_limits_count_the_clips_that_pass(tmp_path: Path) -> None:
    dark = np.zeros((8, 64, 64, 3), np.uint8)
    write_bytes(
        tmp_path / "videos" / "a.avi",
        encode_avi(np.concatenate([dark, draw_video("BallBounce", 1, size=64, num_frames=16, seed=0)]), 8),
    )
    settings = recipe(
        tmp_path / "videos", tmp_path / "run", data__max_black=0.5, data__max_clips_per_video=2, data__test_fraction=0.0
    )
    ingest(settings)
    assert [row["start_frame"] for row in manifest(settings).to_pylist()] == [8, 12]
    assert len(artefacts.load_rejects(settings.folder("clips"))) == 2
