from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from schemas.errors import VtokError
from vtok.video.gather import GatherResize
from vtok.video.transforms import preprocess, resize_crop_uint8, target_size


def _video(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


def _by_torch(video: np.ndarray, resolution: int) -> np.ndarray:
    """The resize and the crop by torch, as the originals do them: values 0..1, CTHW."""
    x = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255
    height, width = target_size(*video.shape[1:3], resolution)
    x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    top, left = (height - resolution) // 2, (width - resolution) // 2
    return x[:, :, top : top + resolution, left : left + resolution].permute(1, 0, 2, 3).numpy()


@pytest.mark.parametrize(
    ("height", "width", "resolution"),
    [(24, 32, 16), (32, 24, 16), (101, 133, 97), (37, 29, 57), (25, 25, 56), (240, 320, 64), (16, 16, 16), (7, 90, 5)],
)
def test_agrees_with_torch(height: int, width: int, resolution: int) -> None:
    video = _video(2, height, width)
    wanted = _by_torch(video, resolution)
    np.testing.assert_allclose(preprocess(video, resolution), wanted - 0.5, rtol=0, atol=1e-6)
    stored = resize_crop_uint8(video, resolution)
    assert stored.dtype == np.uint8
    assert stored.shape == (2, resolution, resolution, 3)
    assert np.abs(stored.transpose(3, 0, 1, 2) - 255 * wanted).max() <= 0.5001


@pytest.mark.parametrize(
    ("height", "width", "resolution"),
    [
        (24, 32, 16),
        (101, 133, 97),
        (37, 29, 57),
        (25, 25, 56),
        (16, 16, 16),
        (48, 48, 16),
        (16, 30, 16),
        (7, 90, 5),
        (1, 1, 8),
        (1, 9, 8),
        (40, 50, 300),
        (240, 320, 128),
    ],
)
def test_gathered_pixels_give_the_same_bits(height: int, width: int, resolution: int) -> None:
    wanted = resize_crop_uint8(_video(3, height, width), resolution)
    resize = GatherResize(height, width, resolution, packed=True)
    planar = GatherResize(height, width, resolution, packed=False)
    for extra in (0, 5):  # pixels at the end of each row that are not part of the frame
        for frame_hwc, result in zip(_video(3, height, width), wanted, strict=True):
            buffer = np.full((height, width + extra, 4), 255, np.uint8)
            buffer[:, :width, :3] = frame_hwc
            assert np.array_equal(resize([buffer.view(np.uint32)[:, :width, 0]]), result)
            planes = [np.pad(frame_hwc[..., channel], ((0, 0), (0, extra)))[:, :width] for channel in range(3)]
            assert np.array_equal(planar(planes), result)
    upright = resize_crop_uint8(np.ascontiguousarray(np.rot90(frame_hwc))[None], resolution)[0]
    turned = np.rot90(buffer.view(np.uint32)[:, :width, 0])  # no rows of neighbouring pixels
    assert np.array_equal(GatherResize(width, height, resolution, packed=True)([turned]), upright)
    turned_planes = [np.rot90(plane) for plane in planes]
    assert np.array_equal(GatherResize(width, height, resolution, packed=False)(turned_planes), upright)
    with pytest.raises(ValueError, match="promised"):
        resize([np.zeros((height + 1, width), np.uint32)])


def test_stored_frames_are_only_rounded_by_a_second_pass() -> None:
    stored = resize_crop_uint8(_video(2, 24, 40), 16)
    assert np.array_equal(resize_crop_uint8(stored, 16), stored)
    exact = preprocess(_video(2, 24, 40), 16)
    assert np.abs(preprocess(stored, 16) - exact).max() <= 0.5001 / 255


def test_target_size_rounds_up_as_the_originals_do() -> None:
    assert target_size(240, 320, 64) == (64, 86)
    assert target_size(320, 240, 64) == (86, 64)
    assert target_size(25, 25, 56) == (57, 56)
    assert target_size(64, 64, 64) == (64, 64)


def test_frames_are_cut_before_they_are_skipped() -> None:
    video = _video(10, 8, 8)
    out = preprocess(video, 8, num_frames=5, frame_stride=2)
    assert out.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(out, preprocess(video[[0, 2, 4]], 8))


def test_range_and_layout() -> None:
    video = np.zeros((1, 4, 4, 3), np.uint8)
    video[..., 1] = 255
    out = preprocess(video, 4)
    assert out.flags.c_contiguous
    assert out[:, 0, 0, 0].tolist() == [-0.5, 0.5, -0.5]


def test_label_maps_become_one_channel_a_label() -> None:
    labels = np.array([[[0, 1], [2, 1]]], np.uint8)
    out = preprocess(labels, 2, channels=4)
    assert out.shape == (4, 1, 2, 2)
    assert out[:, 0, 1, 0].tolist() == [-0.5, -0.5, 0.5, -0.5]
    np.testing.assert_array_equal(preprocess(labels, 2, channels=4, variant="mebt"), out + 0.5)


@pytest.mark.parametrize(
    ("video", "options", "problem"),
    [
        (np.zeros((3, 4, 4, 3), np.uint8), {"num_frames": 4}, "4 frames are needed"),
        (np.zeros((3, 4, 4, 3), np.float32), {}, "uint8"),
        (np.zeros((3, 4, 4), np.uint8), {}, "uint8"),
        (np.full((1, 4, 4), 7, np.uint8), {"channels": 5}, "labels must be"),
        (np.zeros((1, 4, 4), np.float32), {"channels": 5}, "integer"),
    ],
)
def test_wrong_videos_are_refused(video: np.ndarray, options: dict[str, int], problem: str) -> None:
    with pytest.raises(VtokError, match=problem):
        preprocess(video, 4, **options)


def test_does_not_import_torch() -> None:
    code = "import sys, vtok.video.transforms; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
