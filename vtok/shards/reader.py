"""Reads shards into training, in an order that is a pure function of (seed, epoch, position).

The tars are plain WebDataset. `read_samples` streams one through the webdataset library; `ShardReader` finds any clip
of any epoch by its position (vtok/shards/order.py), reads just its bytes, and compares them with what was written
(vtok/shards/verified.py). Nothing is read ahead and nothing is held but a few open files with the offsets of their
samples. vtok/shards/loader.py makes batches of it in worker processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from schemas.errors import IntegrityError, UsageError
from schemas.paths import as_path
from vtok import artefacts
from vtok.shards.codec import RAW, decode_clip
from vtok.shards.order import WINDOW_SHARDS, EpochOrder, Place
from vtok.shards.verified import Proof, ShardFile, Verify

OPEN_FILES = 2 * WINDOW_SHARDS
"""Files that a reader keeps open: two windows, as a batch may lie across a border."""


class Clip(NamedTuple):
    """One decoded clip.

    Attributes:
        clip_id: stable name.
        video_thwc: RGB.
        label: class, if the dataset has classes.
        class_name: its name.
        meta: the clip's row of the manifest.
        extras: what else the sample holds, as bytes by extension; `vtok.shards.codec.decode_extras` decodes it.
    """

    clip_id: str
    video_thwc: UInt8[np.ndarray, "t h w 3"]
    label: int | None
    class_name: str | None
    meta: dict[str, Any]
    extras: Mapping[str, bytes]


def read_shard(path: Path) -> Iterator[Clip]:
    """The clips of one tar, in its order.

    Raises:
        IntegrityError: a sample cannot be read.
    """
    for sample in read_samples(path):
        yield decode_sample(sample, path)


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of one tar as bytes by extension, in its order; nothing is decoded or verified."""
    from webdataset.tariterators import group_by_keys, tar_file_expander  # imports torch

    with path.open("rb") as stream:
        yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))


def decode_sample(sample: dict[str, Any], path: Path) -> Clip:
    """A sample's frames and metadata.

    Raises:
        IntegrityError: they cannot be decoded.
    """
    try:
        meta = json.loads(sample["json"])
        extras = {name: data for name, data in sample.items() if _is_extra(name)}
        return Clip(sample["__key__"], decode_clip(sample), meta["label"], meta["class_name"], meta, extras)
    except (KeyError, ValueError, OSError) as error:
        raise IntegrityError(f"a sample cannot be read: {error}", at=f"{path}: {sample.get('__key__')}") from error


def _is_extra(name: str) -> bool:
    return not (name.startswith("__") or name in ("json", RAW, "mp4") or name.endswith(".jpg"))


class ShardReader:
    """Clips of a split, for training or in store order.

    Args:
        folder: the shards.
        split: which clips.
        seed: of the order.
        shuffle: off: store order, the same in every epoch.
        rank, world: this process's share of every batch.
        verify: `node` (a file once for all processes of this machine), `always` (once in every process) or `off`; what
            that guarantees is said in vtok/shards/verified.py.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        verify: Verify = "node",
    ) -> None:
        self.folder, self.split, self.seed, self.shuffle = as_path(folder), split, seed, shuffle
        self.rank, self.world, self.verify = rank, world, verify
        self.card = artefacts.load(self.folder, "shards")
        index = artefacts.load_index(self.folder).to_pylist()
        self.shards = [row for row in index if row["split"] == split and row["rows"]]
        self._orders: dict[int, EpochOrder] = {}
        self._files: dict[int, ShardFile] = {}
        self._proofs: dict[int, Proof] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process: open files stay here."""
        return {**self.__dict__, "_files": {}}

    def __len__(self) -> int:
        return sum(row["rows"] for row in self.shards)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Whole batches in an epoch; the clips left over are dropped from it (another shuffle drops others)."""
        return len(self) // batch_size

    def share(self, batch_size: int) -> int:
        """Clips of a batch that are this rank's.

        Raises:
            UsageError: the batch does not divide by the ranks.
        """
        if batch_size % self.world:
            raise UsageError(f"a batch of {batch_size} does not divide by {self.world} ranks", hint="change batch_size")
        return batch_size // self.world

    def clip(self, epoch: int, position: int) -> Clip:
        """The clip at a position (0 to len - 1) of an epoch; no other one is read.

        Raises:
            IntegrityError: its shard is not the one that was written.
        """
        place = self.place(epoch, position)
        return decode_sample(self._file(place.shard).sample(place.clip), self.folder / self.shards[place.shard]["path"])

    def place(self, epoch: int, position: int) -> Place:
        """Where that clip lies."""
        if epoch not in self._orders:
            if len(self._orders) == 2:
                del self._orders[next(iter(self._orders))]
            rows = [row["rows"] for row in self.shards]
            self._orders[epoch] = EpochOrder(rows, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        return self._orders[epoch].place(position)

    def clips(self, epoch: int, start: int = 0) -> Iterator[Clip]:
        """The clips of an epoch from position `start` on.

        Raises:
            IntegrityError: a shard is not the one that was written.
        """
        for position in range(start, len(self)):
            yield self.clip(epoch, position)

    def batches(self, batch_size: int, epoch: int, start_batch: int = 0) -> Iterator[list[Clip]]:
        """This rank's share of the batches of an epoch, from batch `start_batch` on; other ranks' clips are not read.

        Args:
            batch_size: clips in a batch over all ranks.

        Raises:
            UsageError: the batch does not divide by the ranks.
            IntegrityError: a shard is not the one that was written.
        """
        share = self.share(batch_size)
        for batch in range(start_batch, self.batches_per_epoch(batch_size)):
            first = batch * batch_size + self.rank * share
            yield [self.clip(epoch, position) for position in range(first, first + share)]

    def _file(self, shard: int) -> ShardFile:
        """The open file of a shard, verified; the one that was not used for the longest is closed."""
        file = self._files.pop(shard, None)
        if file is None:
            row = self.shards[shard]
            if len(self._files) == OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            path, proof = self.folder / row["path"], self._proofs.get(shard)
            file = ShardFile(path, row["sha256"], row["rows"], verify=self.verify, proof=proof)
            self._proofs[shard] = file.proof
        self._files[shard] = file
        return file
