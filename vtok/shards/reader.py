"""Reads shards into training, in an order that is a pure function of (seed, epoch, position).

The tars are plain WebDataset and are read by the webdataset library. For an epoch the shards are permuted, taken a few
at a time, and their clips permuted together: memory is bounded by that window. A shard's sha256 is compared with the
index once per process before its first clip is used.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from webdataset.tariterators import group_by_keys, tar_file_expander

from schemas.errors import IntegrityError, UsageError
from schemas.paths import as_path
from vtok import artefacts
from vtok.seeds import derive
from vtok.shards.codec import decode_clip

WINDOW_SHARDS = 4


class Clip(NamedTuple):
    """One decoded clip.

    Attributes:
        clip_id: stable name.
        video_thwc: RGB.
        label: class, if the dataset has classes.
        class_name: its name.
        meta: the clip's row of the manifest.
    """

    clip_id: str
    video_thwc: UInt8[np.ndarray, "t h w 3"]
    label: int | None
    class_name: str | None
    meta: dict[str, Any]


def read_shard(path: Path) -> Iterator[Clip]:
    """The clips of one tar, in its order.

    Raises:
        IntegrityError: a sample cannot be read.
    """
    for sample in read_samples(path):
        yield decode_sample(sample, path)


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of one tar as bytes by extension, in its order; nothing is decoded."""
    with path.open("rb") as stream:
        yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))


def decode_sample(sample: dict[str, Any], path: Path) -> Clip:
    """A sample's frames and metadata.

    Raises:
        IntegrityError: they cannot be decoded.
    """
    try:
        meta = json.loads(sample["json"])
        return Clip(sample["__key__"], decode_clip(sample), meta["label"], meta["class_name"], meta)
    except (KeyError, ValueError, OSError) as error:
        raise IntegrityError(f"a sample cannot be read: {error}", at=f"{path}: {sample.get('__key__')}") from error


class ShardReader:
    """Clips of a split, for training or in store order.

    Args:
        folder: the shards.
        split: which clips.
        seed: of the order.
        shuffle: off: store order, the same in every epoch.
        rank, world: this process's share of every batch.
    """

    def __init__(
        self, folder: str | Path, split: str, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.folder, self.split, self.seed, self.shuffle = as_path(folder), split, seed, shuffle
        self.rank, self.world = rank, world
        self.card = artefacts.load(self.folder, "shards")
        index = artefacts.load_index(self.folder).to_pylist()
        self.shards = [row for row in index if row["split"] == split and row["rows"]]
        self._verified: set[str] = set()

    def __len__(self) -> int:
        return sum(row["rows"] for row in self.shards)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Whole batches in an epoch; the clips left over are dropped from it (another shuffle drops others)."""
        return len(self) // batch_size

    def clips(self, epoch: int, start: int = 0) -> Iterator[Clip]:
        """The clips of an epoch from position `start` on. Windows before it are not read, clips before it not decoded.

        Raises:
            IntegrityError: a shard is not the one that was written.
        """
        for path, sample in self._samples(epoch, start):
            yield decode_sample(sample, path)

    def batches(self, batch_size: int, epoch: int, start_batch: int = 0) -> Iterator[list[Clip]]:
        """This rank's share of the batches of an epoch, from batch `start_batch` on.

        Args:
            batch_size: clips in a batch over all ranks.

        Raises:
            UsageError: the batch does not divide by the ranks.
            IntegrityError: a shard is not the one that was written.
        """
        if batch_size % self.world:
            raise UsageError(f"a batch of {batch_size} does not divide by {self.world} ranks", hint="change batch_size")
        share = batch_size // self.world
        samples = self._samples(epoch, start_batch * batch_size)
        for _ in range(start_batch, self.batches_per_epoch(batch_size)):
            batch = list(itertools.islice(samples, batch_size))
            mine = batch[self.rank * share : (self.rank + 1) * share]
            yield [decode_sample(sample, path) for path, sample in mine]

    def _samples(self, epoch: int, skip: int) -> Iterator[tuple[Path, dict[str, Any]]]:
        order = np.arange(len(self.shards))
        if self.shuffle:
            order = np.random.default_rng(derive(self.seed, "shards", epoch)).permutation(len(self.shards))
        size = WINDOW_SHARDS if self.shuffle else 1
        for window, start in enumerate(range(0, len(order), size)):
            rows = [self.shards[i] for i in order[start : start + size]]
            count = sum(row["rows"] for row in rows)
            if skip >= count:
                skip -= count
                continue
            samples = [item for row in rows for item in self._verified_samples(row)]
            positions = np.arange(count)
            if self.shuffle:
                positions = np.random.default_rng(derive(self.seed, "shards", epoch, window)).permutation(count)
            for position in positions[skip:]:
                yield samples[position]
            skip = 0

    def _verified_samples(self, row: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
        path = self.folder / row["path"]
        if row["path"] not in self._verified:
            artefacts.verify_part(self.folder, row["path"], row["sha256"])
            self._verified.add(row["path"])
        samples = [(path, sample) for sample in read_samples(path)]
        if len(samples) != row["rows"]:
            raise IntegrityError(f"{len(samples)} samples where the index has {row['rows']}", at=str(path))
        return samples
