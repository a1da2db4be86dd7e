"""Cuts the manifest into shards before anything is decoded: a pure function of manifest and recipe.

Works on columns, so that what it needs grows by some hundred bytes a clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipelines.runtime import Unit
from schemas.config.data import DataConfig, ShardsConfig
from vtok.shards.estimate import bytes_of_clips, cost_of_runs


def plan_shards(clips: pa.Table, data: DataConfig, config: ShardsConfig, seed: int) -> list[Unit]:
    """Shards of `clips_per_shard` clips (or about `target_bytes`), splits apart, a video's clips in sequence.

    Args:
        clips: `pipelines.manifest.PLANNED_COLUMNS` in manifest order.
        data: for the estimates.
        config: `shuffle` orders the videos by a hash of (seed, source) instead of by name.
        seed: the run's seed.

    Returns:
        One unit a shard, in the order of their names; the payload is the shard's row numbers, int64 (n,).
    """
    if not clips.num_rows:
        return []
    values, splits = _codes(clips["split"])
    names = values.to_pylist()
    ranks = np.argsort(np.argsort(names))  # splits by name
    _, sources = _codes(clips["source"])
    starts = np.flatnonzero(np.r_[True, (np.diff(sources) != 0) | (np.diff(splits) != 0)])
    keys = [ranks[splits[starts]]]
    if config.shuffle:
        hashes = _hashes(seed, clips["source"].take(pa.array(starts)))
        keys = [hashes[:, 1], hashes[:, 0], *keys]
    videos = np.lexsort(keys)  # stable: equal hashes stay in manifest order
    lengths = np.diff(np.append(starts, clips.num_rows))[videos]
    before = np.cumsum(lengths) - lengths
    order = np.repeat(starts[videos] - before, lengths) + np.arange(clips.num_rows)

    sizes = bytes_of_clips(clips, data, config)[order]
    split_starts = np.flatnonzero(np.r_[True, np.diff(splits[order]) != 0])
    numbers = _shard_numbers(sizes, split_starts, config)
    cuts = np.flatnonzero(np.r_[True, (np.diff(splits[order]) != 0) | (np.diff(numbers) != 0)])
    runs = np.union1d(cuts, before)
    cost = cost_of_runs(clips, order, runs, data, config)
    run_of_cut = np.searchsorted(runs, cuts)
    frames, seconds = np.add.reduceat(cost.frames, run_of_cut), np.add.reduceat(cost.seconds, run_of_cut)
    volume = np.add.reduceat(sizes, cuts)
    units = []
    for index, (start, stop) in enumerate(zip(cuts, np.append(cuts[1:], len(order)), strict=True)):
        name = f"{names[splits[order[start]]]}-{numbers[start]:05d}.tar"
        units.append(
            Unit(
                name,
                int(stop - start),
                order[start:stop],
                cost=float(seconds[index]),
                frames=int(frames[index]),
                bytes=int(volume[index]),
            )
        )
    return units


def _shard_numbers(sizes: np.ndarray, split_starts: np.ndarray, config: ShardsConfig) -> np.ndarray:
    """The number of every clip's shard within its split, without gaps."""
    counts = np.diff(np.append(split_starts, len(sizes)))
    if config.target_bytes is None:
        return (np.arange(len(sizes)) - np.repeat(split_starts, counts)) // config.clips_per_shard
    before = np.cumsum(sizes) - sizes
    wanted = (before - np.repeat(before[split_starts], counts)) // config.target_bytes
    steps = np.r_[0, np.diff(wanted) > 0].astype(np.int64)  # a clip larger than the target leaves no empty shard
    steps[split_starts] = 0
    total = np.cumsum(steps)
    return total - np.repeat(total[split_starts], counts)


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The distinct values of a column, and each row's index into them."""
    chunks = column.dictionary_encode().unify_dictionaries().chunks
    return chunks[0].dictionary, np.concatenate([chunk.indices.to_numpy() for chunk in chunks])


def _hashes(seed: int, sources: Iterable[pa.Scalar]) -> np.ndarray:
    """The first 16 bytes of sha256(seed/source), as two big-endian numbers: (n, 2)."""
    begun = hashlib.sha256(f"{seed}/".encode())
    digests = bytearray()
    for source in sources:
        digest = begun.copy()
        digest.update(source.as_py().encode())
        digests += digest.digest()[:16]
    return np.frombuffer(bytes(digests), ">u8").reshape(-1, 2)
