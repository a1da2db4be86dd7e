from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.config.tokenizer import AugmentConfig
from schemas.errors import UsageError
from tests.shards.making import make_shards
from vtok.shards.augment import augment_clip
from vtok.shards.loader import ClipBatches
from vtok.shards.reader import ShardReader


def _coordinates(height: int = 20, width: int = 24, frames: int = 3) -> np.ndarray:
    """A clip whose pixels say where they are: (y, x, t)."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([y, x, t], -1).astype(np.uint8)


def _augment(config: AugmentConfig, number: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return augment_clip(_coordinates(), config, seed=seed, epoch=epoch, clip_id=f"clip{number}")


def test_a_crop_is_a_whole_square_at_every_place_there_is() -> None:
    corners = set()
    for number in range(400):
        crop = _augment(AugmentConfig(crop=16), number)
        top, left = (int(value) for value in crop[0, 0, 0, :2])
        np.testing.assert_array_equal(crop, _coordinates()[:, top : top + 16, left : left + 16])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(9)}


def test_every_second_clip_is_mirrored() -> None:
    mirrored = 0
    for number in range(400):
        video = _augment(AugmentConfig(flip=True), number)
        assert np.array_equal(video, _coordinates()) != np.array_equal(video, _coordinates()[:, :, ::-1])
        mirrored += int(video[0, 0, 0, 1] > 0)
    assert 160 < mirrored < 240


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    for number in range(20):
        video = _augment(AugmentConfig(crop=8, flip=True), number)
        for frame, picture in enumerate(video):
            np.testing.assert_array_equal(picture[..., :2], video[0, ..., :2])
            assert (picture[..., 2] == frame).all()


def test_a_draw_depends_on_seed_epoch_and_clip() -> None:
    config = AugmentConfig(crop=8, flip=True)
    base = [_augment(config, number).tobytes() for number in range(30)]
    assert base == [_augment(config, number).tobytes() for number in range(30)]
    assert len(set(base)) > 20
    for other in ({"seed": 1}, {"epoch": 1}):
        assert sum(_augment(config, n, **other).tobytes() == base[n] for n in range(30)) < 10


def test_off_and_too_large() -> None:
    np.testing.assert_array_equal(_augment(AugmentConfig(), 0), _coordinates())
    assert _augment(AugmentConfig(crop=20), 0).shape == (3, 20, 20, 3)
    with pytest.raises(UsageError, match="a crop of 21 from clips of 20 x 24"):
        _augment(AugmentConfig(crop=21), 0)


def test_the_same_on_any_number_of_ranks_and_whatever_the_batch(tmp_path: Path) -> None:
    folder, config = make_shards(tmp_path / "s", {"train": [5, 7]}), AugmentConfig(crop=12, flip=True)
    found = []
    for world, batch_size in [(1, 4), (2, 4), (1, 6), (3, 6)]:
        videos = {}
        for rank in range(world):
            batches = ClipBatches(ShardReader(folder, "train", rank=rank, world=world), batch_size, augment=config)
            for step in range(batches.per_epoch, 2 * batches.per_epoch):
                batch = batches[step]
                assert batch.video_bthwc.shape == (batch_size // world, 4, 12, 12, 3)
                videos |= {name: v.tobytes() for name, v in zip(batch.clip_ids, batch.video_bthwc, strict=True)}
        found.append(videos)
    assert len(found[0]) == 12
    assert all(videos == found[0] for videos in found)
