from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.video.making import numbers, write_video
from vtok.datasets.tats_pairs import smap_companion, text_descriptions
from vtok.video.media.companions import read_companion, split_address


def _spectra(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((90, 45, 17))


def _write(root: Path, name: str, held: Any) -> None:
    (root / f"stft/{name}.pickle").parent.mkdir(parents=True, exist_ok=True)
    (root / f"stft/{name}.pickle").write_bytes(pickle.dumps(held))


@pytest.fixture(scope="module")
def drums(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 90 frames at 30 a second."""
    path = write_video(tmp_path_factory.mktemp("drums") / "a.mp4", 90, fps=30, size=(48, 48))
    return path.read_bytes()


class _Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_videos_with_spectra(drums: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for number, name in enumerate(("train/a", "test/b", "train/bad", "train/short")):
        (tmp_path / f"video/{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"video/{name}.mp4").write_bytes(drums)
        _write(tmp_path, name, _spectra(number)[: 60 if name == "train/short" else 90])
    _write(tmp_path, "train/bad", _Runs(f"touch {mark}"))
    _write(tmp_path, "train/lonely", _spectra(9))
    (tmp_path / "video/train/silent.mp4").write_bytes(drums)
    made = make(tmp_path, "tats_stft", num_frames=30)
    assert {name: len(clips) for name, clips in made.clips.items()} == {
        "video/train/a.mp4": 3,
        "video/test/b.mp4": 3,
        "video/train/short.mp4": 2,
    }
    for number, name in enumerate(("train/a", "test/b")):
        for clip in made.clips[f"video/{name}.mp4"]:
            np.testing.assert_array_equal(clip.extras["stft"], _spectra(number)[numbers(clip.frames_thwc)])
            assert clip.extras["stft"].dtype == np.float64 and clip.row["split"] == name.split("/")[0]
    assert sorted(made.rejects) == [
        *[("video/train/bad.mp4", "corrupt")] * 3,
        ("video/train/lonely.mp4", "missing"),
        ("video/train/short.mp4", "missing_frames"),
        ("video/train/silent.mp4", "not_in_split"),
    ]
    assert not mark.exists()


def test_two_videos_for_one_file_of_spectra(drums: bytes, tmp_path: Path) -> None:
    _write(tmp_path, "train/a", _spectra(0))
    (tmp_path / "video/train").mkdir(parents=True)
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / "video/train" / name).write_bytes(drums)
    found = listed(tmp_path, "tats_stft")
    assert list(rejects(found).values()) == ["not_in_split"] and len(found) == 2


def test_what_is_not_there(drums: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        listed(tmp_path / "nowhere", "tats_stft")
    (tmp_path / "video/train").mkdir(parents=True)
    (tmp_path / "video/train/a.mp4").write_bytes(drums)
    with pytest.raises(UsageError, match="no spectra"):
        listed(tmp_path, "tats_stft")
    _write(tmp_path, "train/b", _spectra(0))
    with pytest.raises(UsageError, match="none of the 1 videos"):
        listed(tmp_path, "tats_stft")


def test_spectra_that_are_a_link_out_of_the_root(drums: bytes, tmp_path: Path) -> None:
    root = tmp_path / "root"
    _write(root, "train/a", _spectra(0))
    (root / "stft/train/a.pickle").rename(tmp_path / "outside.pickle")
    (root / "stft/train/a.pickle").symlink_to(tmp_path / "outside.pickle")
    (root / "video/train").mkdir(parents=True)
    (root / "video/train/a.mp4").write_bytes(drums)
    assert rejects(listed(root, "tats_stft")) == {"video/train/a.mp4": "unsafe_path"}


def test_text_descriptions(tmp_path: Path) -> None:
    (tmp_path / "train_text_description.txt").write_text("one runs\ta hero runs \n\ntwo jump\n")
    assert text_descriptions(tmp_path, "train") == [["one runs", "a hero runs"], [], ["two jump"]]
    assert text_descriptions(tmp_path, "test") is None
    (tmp_path / "test_text_description.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="cannot be read"):
        text_descriptions(tmp_path, "test")


def test_semantic_maps_are_cut_where_the_frames_are(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).integers(0, 66, (20, 8, 8, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "smap.h5", "w") as file:
        file["train_data"] = maps
    ((name, address),) = smap_companion("smap.h5", "train", 12, 20).items()
    path, item = split_address(address)
    assert name == "smap"
    np.testing.assert_array_equal(read_companion(tmp_path / path, item, [2, 3, 7]), maps[[14, 15, 19]])
