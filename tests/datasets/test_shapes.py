from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.config.data import DataConfig
from vtok.datasets.shapes import CLASSES, draw_video, write_shapes
from vtok.datasets.ucf101 import list_ucf101
from vtok.video.clips import plan_clips
from vtok.video.decode import read_video
from vtok.video.errors import VideoError
from vtok.video.probe import probe


def _bytes(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shapes(tmp_path / name, videos_per_class=2, size=32, num_frames=12)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    write_shapes(tmp_path / "c", videos_per_class=2, size=32, num_frames=12, seed=1)
    assert _bytes(tmp_path / "c") != _bytes(tmp_path / "a")


def test_it_is_a_ucf101(tmp_path: Path) -> None:
    corpus = write_shapes(tmp_path, videos_per_class=16, size=32, num_frames=12)
    config = DataConfig(root=str(tmp_path), layout="ucf101")
    videos = list_ucf101(tmp_path, config)
    assert len(videos) == corpus.videos + len(corpus.damaged)
    assert not any(v.reject for v in videos)  # damaged files are in the lists: decoding has to find them
    assert {v.class_name: v.label for v in videos} == {name: i for i, name in enumerate(sorted(CLASSES))}
    groups = {split: {v.source.split("_")[2] for v in videos if v.split == split} for split in ("train", "test")}
    assert groups["train"]
    assert groups["test"]
    assert not groups["train"] & groups["test"]
    for v in videos:
        if v.source in corpus.damaged:
            with pytest.raises(VideoError):
                plan_clips(probe(v.path), config.model_copy(update={"num_frames": 8}))
        else:
            facts = probe(v.path)
            assert (facts.frames, facts.height, facts.width, facts.codec) == (12, 32, 32, "mpeg4")


def test_files_decode_to_what_was_drawn(tmp_path: Path) -> None:
    write_shapes(tmp_path, videos_per_class=1, size=64, num_frames=12)
    for name in CLASSES:
        drawn = draw_video(name, 0, size=64, num_frames=12, seed=0)
        back = read_video(next(tmp_path.glob(f"{name}/*g01_c01.avi")))
        assert back.shape == drawn.shape
        assert 10 * np.log10(255**2 / np.mean((back.astype(float) - drawn) ** 2)) > 27, name


def test_every_video_moves_and_differs() -> None:
    for name in CLASSES:
        videos = [draw_video(name, n, size=32, num_frames=12, seed=0).astype(int) for n in range(4)]
        for video in videos:
            assert np.abs(video[1:] - video[:-1]).mean() > 0.5, name
        assert all(np.abs(a - b).mean() > 1 for i, a in enumerate(videos) for b in videos[:i])
