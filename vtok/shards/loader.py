"""Batches of clips for training, decoded in worker processes, on any number of ranks.

The batch of a step is a pure function of (shards, split, seed, batch size, step); vtok/stepping.py hands them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from schemas.config.tokenizer import AugmentConfig
from schemas.errors import UsageError
from schemas.paths import ObjectPath
from vtok.shards.augment import augment_clip
from vtok.shards.reader import ShardReader
from vtok.stepping import StepLoader

Last = Literal["drop", "pad"]
"""What becomes of the clips that fill no whole batch at the end of an epoch: they are dropped from this epoch (another
shuffle drops others), or the batch is filled up with the epoch's first clips."""


class ClipBatch(NamedTuple):
    """One rank's share of a batch.

    Attributes:
        video_bthwc: RGB.
        labels_b: class labels; -1 where a clip has none.
        valid_b: false for the clips that only fill up the last batch of an epoch.
        clip_ids: names.
        metas: the clips' rows of the manifest.
        extras: what else the samples hold, as bytes by extension.
    """

    video_bthwc: UInt8[np.ndarray, "b t h w 3"]
    labels_b: Int64[np.ndarray, " b"]
    valid_b: Bool[np.ndarray, " b"]
    clip_ids: list[str]
    metas: list[dict[str, Any]]
    extras: list[Mapping[str, bytes]]


class ClipBatches:
    """The batches of a split by step: `batches[step]` is this rank's share. Epoch follows epoch without end.

    This is a map-style dataset for torch: `DataLoader(batches, sampler=range(start, stop), batch_size=None)`.

    Args:
        reader: which clips, in which order, on which rank.
        batch_size: clips in a batch, over all ranks.
        last: what becomes of the clips left over at the end of an epoch.
        augment: random crop and flip; none: the clips as they are stored.

    Attributes:
        per_epoch: batches in an epoch, the same on every rank.
        dropped: clips that every epoch leaves out.
        padded: clips that every epoch shows twice.

    Raises:
        UsageError: the split has no clips, or fewer than a batch where those left over are dropped; the batch does not
            divide by the ranks.
    """

    work = "decodes clips"

    def __init__(
        self, reader: ShardReader, batch_size: int, *, last: Last = "drop", augment: AugmentConfig | None = None
    ) -> None:
        self.reader, self.batch_size, self.last = reader, batch_size, last
        self.augment = augment or AugmentConfig()
        self.share = reader.share(batch_size)
        clips = len(reader)
        if not clips or (last == "drop" and clips < batch_size):
            raise UsageError(
                f"split {reader.split!r} has {clips} clips: fewer than one batch of {batch_size}",
                at=str(reader.folder),
                hint="lower tokenizer.train.batch_size, or ingest more videos",
            )
        self.per_epoch = clips // batch_size if last == "drop" else -(-clips // batch_size)
        self.dropped = max(0, clips - self.per_epoch * batch_size)
        self.padded = max(0, self.per_epoch * batch_size - clips)

    def __getitem__(self, step: int) -> ClipBatch:
        """This rank's share of the batch of a step.

        Raises:
            IntegrityError: a shard is not the one that was written.
            UsageError: a clip is smaller than the crop.
        """
        epoch, batch = divmod(step, self.per_epoch)
        first = batch * self.batch_size + self.reader.rank * self.share
        positions = range(first, first + self.share)
        clips = [self.reader.clip(epoch, position % len(self.reader)) for position in positions]
        key = {"seed": self.reader.seed, "epoch": epoch}
        videos = [augment_clip(clip.video_thwc, self.augment, clip_id=clip.clip_id, **key) for clip in clips]
        return ClipBatch(
            np.stack(videos),
            np.array([-1 if clip.label is None else clip.label for clip in clips], np.int64),
            np.array([position < len(self.reader) for position in positions], np.bool_),
            [clip.clip_id for clip in clips],
            [clip.meta for clip in clips],
            [clip.extras for clip in clips],
        )

    @property
    def where(self) -> str:
        """The shards' folder."""
        return str(self.reader.folder)

    @property
    def spawn(self) -> bool:
        """An object store's client has threads, which a fork would lose."""
        return isinstance(self.reader.folder, ObjectPath)

    def identity(self) -> dict[str, Any]:
        """What the sequence of batches depends on."""
        reader = self.reader
        return {
            "shards": reader.card.fingerprint,
            "split": reader.split,
            "shuffle": reader.shuffle,
            "seed": reader.seed,
            "batch_size": self.batch_size,
            "last": self.last,
            "augment": self.augment.plain(),
        }


class ClipLoader(StepLoader[ClipBatch]):
    """Hands out `ClipBatches` from any position on, and knows how many it has handed out.

    Args:
        batches: what to hand out.
        workers: processes that read and decode; 0: this one does.
        prefetch: batches that every worker makes in advance.
    """

    def __init__(self, batches: ClipBatches, *, workers: int = 0, prefetch: int = 2) -> None:
        super().__init__(batches, workers=workers, prefetch=prefetch)
        self.batches = batches
