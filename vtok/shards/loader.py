"""Batches of clips for training, decoded in worker processes, on any number of ranks.

The batch of a step is a pure function of (shards, split, seed, batch size, step): workers are handed steps, so their
number, the prefetching and the ranks change nothing. The state is the number of batches that the training loop was
given, beside what the order depends on; it is restored exactly on another number of ranks or workers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing.resource_tracker
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from schemas.config.tokenizer import AugmentConfig
from schemas.errors import UsageError, VtokError
from schemas.paths import ObjectPath
from vtok.shards.augment import augment_clip
from vtok.shards.reader import ShardReader

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


class ClipLoader:
    """Hands out `ClipBatches` from any position on, and knows how many it has handed out.

    `for batch in loader` gives the rest of the present epoch, and goes on where it stopped when it is iterated again;
    `forever()` passes over the borders. Workers live on from epoch to epoch.

    Args:
        batches: what to hand out.
        workers: processes that read and decode; 0: this one does.
        prefetch: batches that every worker makes in advance.
    """

    def __init__(self, batches: ClipBatches, *, workers: int = 0, prefetch: int = 2) -> None:
        self.batches, self.workers, self.prefetch = batches, workers, prefetch
        self.step = 0
        self._stream: Iterator[ClipBatch] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.step // self.batches.per_epoch

    def __iter__(self) -> Iterator[ClipBatch]:
        end = (self.epoch + 1) * self.batches.per_epoch
        while self.step < end:
            yield self._next()

    def forever(self) -> Iterator[ClipBatch]:
        """The batches from the present position on, without end."""
        while True:
            yield self._next()

    def _next(self) -> ClipBatch:
        if self._stream is None:
            steps = itertools.count(self.step)
            if self.workers:
                self._stream = _from_workers(self.batches, steps, self.workers, self.prefetch)
            else:
                self._stream = map(self.batches.__getitem__, steps)
        try:
            batch = next(self._stream)
        except BaseException:
            self.close()
            raise
        self.step += 1  # before it is handed out: whoever asks for the state while using a batch has had it
        return batch

    def seek(self, step: int) -> None:
        """Goes on at this step; what was made in advance is thrown away."""
        self.close()
        self.step = step

    def close(self) -> None:
        """Ends the workers; iterating again starts new ones at the present position."""
        self._stream = None

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: the batches handed out, and what the order depends on. JSON-compatible, < 1 KiB."""
        return {**self._identity(), "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where a loader with this state stood, whatever its ranks and workers were.

        Raises:
            UsageError: the state is of other shards, another split, seed, batch size, ...; the message says which.
        """
        here = self._identity()
        differing = [
            f"{name} is {json.dumps(here[name])} here and {json.dumps(state.get(name))} in the state"
            for name in here
            if here[name] != state.get(name)
        ]
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            differing.append(f"step is {json.dumps(step)} in the state")
        if differing:
            raise UsageError(
                f"the loader's state is not one of these batches: {'; '.join(differing)}",
                at=str(self.batches.reader.folder),
                hint="resume with what the state was saved with, or start anew without it",
            )
        self.seek(int(state["step"]))

    def _identity(self) -> dict[str, Any]:
        reader = self.batches.reader
        return {
            "shards": reader.card.fingerprint,
            "split": reader.split,
            "shuffle": reader.shuffle,
            "seed": reader.seed,
            "batch_size": self.batches.batch_size,
            "last": self.batches.last,
            "augment": self.batches.augment.plain(),
        }


def _from_workers(batches: ClipBatches, steps: Iterator[int], workers: int, prefetch: int) -> Iterator[ClipBatch]:
    """The batches of some steps. Refers to no loader: the workers end as soon as nobody holds this iterator."""
    import torch
    from torch.utils.data import DataLoader

    in_store = isinstance(batches.reader.folder, ObjectPath)  # its client has threads, which a fork would lose
    loader: Any = DataLoader(
        _Shipped(batches),  # type: ignore[arg-type]
        sampler=steps,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if in_store else "fork",
        prefetch_factor=prefetch,
        collate_fn=_same,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # torch would draw a seed for the workers from the global generator
    )
    with _ctrl_c_held_back(in_store):
        made = iter(loader)
    while True:
        try:
            batch = next(made)
        except RuntimeError as error:
            raise VtokError(
                f"a process that decodes clips was lost: {error}",
                at=str(batches.reader.folder),
                hint="memory or /dev/shm may be full: fewer workers, a smaller batch or more shared memory",
            ) from error
        if isinstance(batch, VtokError):
            raise batch
        arrays = (tensor.numpy() for tensor in batch[:3])
        yield ClipBatch(*arrays, *batch[3:])


class _Shipped:
    """Batches as workers send them: arrays as tensors, which torch hands over in shared memory, and errors as values,
    as torch would rebuild them from their text."""

    def __init__(self, batches: ClipBatches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> tuple[Any, ...] | VtokError:
        import torch

        try:
            batch = self._batches[step]
        except VtokError as error:
            return error
        return (*(torch.from_numpy(array) for array in batch[:3]), *batch[3:])


def _same(item: Any) -> Any:
    return item


@contextlib.contextmanager
def _ctrl_c_held_back(spawning: bool) -> Iterator[None]:
    """Processes started meanwhile do not see Ctrl-C before `_start_worker` has decided what they do with it."""
    if spawning:  # Python's own helper process, which spawning starts when it is missing, would let it through again
        multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Leaves Ctrl-C to the training loop, which finishes its step with the batches of living workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
