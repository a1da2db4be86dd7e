from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.video.making import numbers, write_video

RELEASE = "coinrun_dataset_jsons/release"


def _entry(name: str, *notes: tuple[str, str], **video: Any) -> dict[str, Any]:
    facts = {"json_file": f"jsons/{name}.json", "num_frames": 96, "character_ranges": [], **video}
    return {"video": facts, "annotations": [{"type": kind, "text": text} for kind, text in notes]}


def _write(root: Path, folder: str = RELEASE, **splits: list[Any]) -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for split, data in splits.items():
        facts = {"metadata": {"data_folder": "/authors/machine/coinrun", "type": "x"}, "data": data}
        (root / folder / f"{split}.json").write_text(json.dumps(facts))
    return root


BOTH = (("auto", "Mugen runs."), ("manual", "A hero runs."), ("manual", "He is running."))


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_splits_and_captions(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        train=[_entry("g_1", *BOTH, video_file="videos/train/r_1.mp4"), _entry("g_2", ("auto", "Mugen jumps."))],
        val=[_entry("g_3")],
        test=[_entry("g_4", *BOTH)],
    )
    _touch(root, "videos/train/r_1.mp4", "g_2.mp4", "videos/g_3.mp4")
    for kind, first in (("manual", "A hero runs."), ("auto", "Mugen runs.")):
        found = listed(root, "mugen", caption_type=kind)
        assert {name: (video.split, video.caption) for name, video in found.items()} == {
            "videos/train/r_1.mp4": ("train", first),
            "g_2.mp4": ("train", "Mugen jumps."),
            "videos/g_3.mp4": ("val", None),
            "test/g_4.mp4": ("test", first),
        }
        assert rejects(found) == {"test/g_4.mp4": "missing"}


def test_rendered_videos_become_clips(tmp_path: Path) -> None:
    root = _write(tmp_path, folder="", train=[_entry("g_1", *BOTH)], test=[_entry("g_2", *BOTH)])
    write_video(root / "g_1.mp4", 9, size=(48, 48))
    write_video(root / "g_2.mp4", 4, size=(48, 48))
    made = make(root, "mugen")
    assert {name: [numbers(clip.frames_thwc) for clip in clips] for name, clips in made.clips.items()} == {
        "g_1.mp4": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "g_2.mp4": [[0, 1, 2, 3]],
    }
    assert made.clips["g_2.mp4"][0].row["caption"] == "A hero runs." and made.clips["g_2.mp4"][0].row["split"] == "test"


def test_files_that_the_lists_do_not_name_or_name_twice(tmp_path: Path) -> None:
    root = _write(tmp_path, train=[_entry("g_1"), _entry("g_1")], test=[_entry("g_2")], val=[_entry("g_2")])
    found = listed(_touch(root, "g_1.mp4", "g_2.mp4", "g_9.mp4"), "mugen")
    assert rejects(found) == {"g_2.mp4": "not_in_split", "g_9.mp4": "not_in_split"}


def test_games_without_rendered_videos(tmp_path: Path) -> None:
    """The release as it is downloaded without videos, and CoinRun's first form with a JSON a game."""
    root = _write(tmp_path, train=[_entry("g_1")])
    with pytest.raises(UsageError, match="no rendered videos") as caught:
        listed(root, "mugen")
    assert "render" in caught.value.hint
    with pytest.raises(UsageError, match="none of the 1 videos") as caught:
        listed(_touch(root, "other.mp4"), "mugen")
    assert "render" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"data": 3}', '{"data": [{"video": {}}]}', '{"data": [7]}', "[" * 99_999]
)
def test_a_damaged_list_is_the_users_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        listed(_touch(tmp_path, "g_1.mp4"), "mugen")
    assert "train.json" in caught.value.at
