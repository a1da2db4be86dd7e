"""How large clips will be and how long they take, estimated before anything is decoded.

Shard boundaries by bytes are planned with these numbers, never with encoded sizes: they depend on the recipe and the
manifest alone. Sizes come from real 16x128x128 clips (768 KiB of RGB): jpeg q95 4:4:4 137 KiB, q90 81 KiB; H.264 crf
12, 18, 23: 21, 11, 7 KiB; raw with zstd 367 KiB. Between and beyond, the logarithm of the size is taken as linear in
the quality. Speeds are those of one core of one machine; only their proportions matter, a running job measures its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.config.data import DataConfig, ShardsConfig

_RAW_SHARE = 367 / 768
_JPEG_SHARE = {90: 81 / 768, 95: 137 / 768}
_H264_SHARE = {12: 21 / 768, 18: 11 / 768, 23: 7 / 768}
_TAR_MEMBER = 768  # header of 512 bytes and half a block of padding
_METADATA = 1024 + 512  # the JSON member
_LARGEST_SHARE = 1.0

_DECODE_PIXELS = 2.5e8  # a second, h264
_CONVERT_PIXELS = 5e8  # to RGB, wanted frames only
_ENCODE_PIXELS = {"jpeg": 1.2e8, "raw": 1.7e8, "h264": 4e7}
_H264_START = 0.05  # seconds to start the ffmpeg program, once a clip
_HASH_BYTES = 4e8
_OPEN_SECONDS = 0.002  # a file
_KEY_FRAME_FRAMES = 60  # to the key frame before a clip that is jumped to, on the average of long and short GOPs
_SPARSE_FRAMES, _SPARSE_SHARE = 128, 0.5  # when decoding jumps, see `vtok.video.decode`
_JUMP_FRAMES = 8  # to the next clip, for which it jumps again


def clip_bytes(data: DataConfig, config: ShardsConfig) -> int:
    """Estimated bytes of a clip without sound in a shard, tar headers included."""
    pixels = 3 * data.num_frames * data.resolution**2
    if config.encoding == "raw":
        share, members = _RAW_SHARE, 1
    elif config.encoding == "jpeg":
        share, members = _between(_JPEG_SHARE, config.jpeg_quality), data.num_frames
    else:
        share, members = _between(_H264_SHARE, config.h264_crf), 1
    return round(pixels * min(share, _LARGEST_SHARE)) + members * _TAR_MEMBER + _METADATA


def _between(table: dict[int, float], quality: int) -> float:
    """Exponential through the two nearest measured points."""
    low, high = sorted(sorted(table, key=lambda known: abs(known - quality))[:2])
    slope = (math.log(table[high]) - math.log(table[low])) / (high - low)
    return math.exp(math.log(table[low]) + slope * (quality - low))


def bytes_of_clips(clips: pa.Table, data: DataConfig, config: ShardsConfig) -> np.ndarray:
    """Estimated bytes of every clip of a manifest: int64 (n,)."""
    sizes = np.full(clips.num_rows, clip_bytes(data, config), np.int64)
    if config.audio_rate:
        heard = clips["has_audio"].to_numpy()
        seconds = clips["end_time"].to_numpy() - clips["start_time"].to_numpy()
        sizes += np.where(heard, np.ceil(seconds * 2 * config.audio_rate), 0).astype(np.int64)
    return sizes


class Cost(NamedTuple):
    """Estimates for runs of clips, one entry a run.

    Attributes:
        frames: source frames that are decoded, with those that only lead to a clip: int64.
        seconds: of one core: float64.
    """

    frames: np.ndarray
    seconds: np.ndarray


def cost_of_runs(
    clips: pa.Table, order: np.ndarray, starts: np.ndarray, data: DataConfig, config: ShardsConfig
) -> Cost:
    """What it costs to make runs of clips; a run is a video's clips in one shard, decoded in one pass.

    Args:
        clips: the manifest's columns.
        order: int64 (n,), row of the manifest at each place.
        starts: int64 (r,), first place of each run; runs follow one another.
        data, config: of the recipe.
    """
    if not len(starts):
        return Cost(np.zeros(0, np.int64), np.zeros(0))
    first, last = _frame_ranges(clips)
    first, last = first[order], last[order]
    begin, end = np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)
    number = np.diff(np.append(starts, len(order)))
    apart = np.r_[1, first[1:] - last[:-1] >= _JUMP_FRAMES].astype(np.int64)
    apart[starts] = 1
    places = np.add.reduceat(apart, starts)  # that decoding jumps to
    spanned = np.minimum(np.add.reduceat(last - first, starts), end - begin)
    unwanted = end - spanned
    jumps = unwanted >= np.maximum(_SPARSE_FRAMES, (1 - _SPARSE_SHARE) * end)
    frames = np.where(jumps, spanned + np.minimum(unwanted, places * _KEY_FRAME_FRAMES), end)
    heads = order[starts]
    area = (clips["height"].to_numpy().astype(np.int64) * clips["width"].to_numpy())[heads]
    clip_pixels = data.num_frames * data.resolution**2 / _ENCODE_PIXELS[config.encoding]
    seconds = (
        _OPEN_SECONDS
        + clips["source_bytes"].to_numpy()[heads] / _HASH_BYTES
        + frames * area / _DECODE_PIXELS
        + number * data.num_frames * area / _CONVERT_PIXELS
        + number * (clip_pixels + (_H264_START if config.encoding == "h264" else 0.0))
    )
    return Cost(frames, seconds)


def _frame_ranges(clips: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """First source frame of every clip, and the one after its last: int64 (n,) each."""
    fps = clips["fps"].to_numpy()
    by_time = np.floor(clips["start_time"].to_numpy() * fps).astype(np.int64)
    stride = pc.fill_null(clips["frame_stride"], 0).to_numpy().astype(np.int64)
    first = np.where(stride > 0, pc.fill_null(clips["start_frame"], 0).to_numpy(), by_time)
    by_time = np.ceil(clips["end_time"].to_numpy() * fps).astype(np.int64)
    last = np.where(stride > 0, first + (clips["num_frames"].to_numpy().astype(np.int64) - 1) * stride + 1, by_time)
    return first, np.maximum(last, first + 1)
