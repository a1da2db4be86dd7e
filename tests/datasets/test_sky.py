"""Sky Time-lapse in its native form."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from tests.datasets.decoding import make
from tests.datasets.test_frames import greys, save, video
from vtok.datasets.sky import PUBLISHED, list_sky


def tree(root: Path) -> Path:
    """Two videos of two clips, and one for testing; ids as YouTube has them."""
    base = root / "sky_timelapse"
    for place in ("sky_train/-07_ab_1/1", "sky_train/-07_ab_1/2", "sky_train/_zz-9/10", "sky_test/qq/3"):
        name = place.split("/")[1]
        video(base / place, 6, name + "_frames_{:08d}.jpg", first=98)
    return root


def test_every_clip_folder_is_a_video_of_its_split(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    damaged = root / "sky_timelapse/sky_train/_zz-9/10/_zz-9_frames_00000100.jpg"
    damaged.write_bytes(damaged.read_bytes()[:50])
    made = make(root, tmp_path / "out", layout="sky", resolution=16, num_frames=3, source_fps=8)
    prefix = "sky_timelapse/"
    assert made.rejects == {prefix + "sky_train/_zz-9/10": ("shards", "corrupt")}
    assert {(row["source"], row["split"], row["label"], row["fps"], row["frames"]) for row in made.rows} == {
        (prefix + "sky_train/-07_ab_1/1", "train", None, 8.0, 6),
        (prefix + "sky_train/-07_ab_1/2", "train", None, 8.0, 6),
        (prefix + "sky_train/_zz-9/10", "train", None, 8.0, 6),
        (prefix + "sky_test/qq/3", "test", None, 8.0, 6),
    }
    assert greys(made, prefix + "sky_test/qq/3") == list(range(98, 104))
    assert len(made.clips[prefix + "sky_train/_zz-9/10"]) == 1, "the other clip of the damaged video survives"


def test_the_root_may_be_the_archives_folder_and_other_images_are_rejects(tmp_path: Path) -> None:
    root = tree(tmp_path) / "sky_timelapse"
    save(root / "thumbnails/1.jpg", 0)
    videos = {v.source: (v.split, v.reject and v.reject[0]) for v in list_sky(root, DataConfig(root=str(root)))}
    assert videos["sky_test/qq/3"] == ("test", None)
    assert videos["thumbnails"][1] == "not_in_split"
    assert PUBLISHED == {}


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        list_sky(tmp_path, DataConfig(root=str(tmp_path)))
    assert "sky_train" in caught.value.hint
