from __future__ import annotations

import numpy as np
import pytest

from schemas.config.data import ShardsConfig
from tests.shards.making import frames_of
from vtok.shards.codec import decode_clip, encode_clip


@pytest.mark.parametrize(("encoding", "least"), [("raw", np.inf), ("jpeg", 38.0), ("h264", 30.0)])
@pytest.mark.parametrize("size", [16, 17])
def test_round_trip(encoding: str, least: float, size: int) -> None:
    frames = frames_of(3, count=12, size=size)
    config = ShardsConfig(encoding=encoding)
    members = encode_clip(frames, config, 8.0)
    assert members == encode_clip(frames.copy(), config, 8.0)
    back = decode_clip(members)
    assert (back.shape, back.dtype) == (frames.shape, np.uint8)
    error = np.mean((back.astype(float) - frames) ** 2)
    assert (10 * np.log10(255**2 / error) if error else np.inf) >= least


def test_members() -> None:
    frames = frames_of(0, count=3)
    assert list(encode_clip(frames, ShardsConfig(encoding="jpeg"), 8.0)) == ["000.jpg", "001.jpg", "002.jpg"]
    assert list(encode_clip(frames, ShardsConfig(encoding="raw"), 8.0)) == ["npy.zst"]
    assert list(encode_clip(frames, ShardsConfig(encoding="h264"), 8.0)) == ["mp4"]


def test_more_than_a_thousand_frames_stay_in_order() -> None:
    frames = np.repeat(np.arange(1001, dtype=np.uint16)[:, None], 8 * 8 * 3, 1).reshape(1001, 8, 8, 3)
    shades = (frames % 251).astype(np.uint8)
    back = decode_clip(encode_clip(shades, ShardsConfig(encoding="jpeg"), 8.0))
    assert np.abs(back.astype(int) - shades).max() <= 1


def test_quality_is_used() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    low, high = (encode_clip(frames, ShardsConfig(jpeg_quality=q), 8.0)["000.jpg"] for q in (30, 95))
    assert len(low) < len(high)


def test_a_sample_without_frames() -> None:
    with pytest.raises(ValueError, match="no frames"):
        decode_clip({"json": b"{}"})


def test_nothing_is_unpickled() -> None:
    import io

    import pyarrow as pa

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    member = pa.compress(buffer.getvalue(), codec="zstd", asbytes=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        decode_clip({"npy.zst": member})
