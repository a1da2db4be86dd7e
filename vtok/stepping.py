"""Hands out batches by step, made in worker processes if asked, and knows how many it has handed out.

The batch of a step is a pure function of its source and the step: workers are handed steps, so their number, the
prefetching and the ranks change nothing. The state is the number of batches that the training loop was given, beside
what the batches depend on; it is restored exactly on another number of ranks or workers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing.resource_tracker
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from schemas.errors import UsageError, VtokError

B = TypeVar("B", bound=tuple[Any, ...])
B_co = TypeVar("B_co", bound=tuple[Any, ...], covariant=True)


class StepSource(Protocol[B_co]):
    """Batches by step; epoch follows epoch without end. A map-style dataset for torch.

    Attributes:
        per_epoch: batches in an epoch, the same on every rank.
        where: what the batches are read from, for messages.
        work: what is done to make one, for messages: "decodes clips".
        spawn: whether workers must be started afresh, because a fork would lose something (a client's threads).
    """

    per_epoch: int
    work: str

    @property
    def where(self) -> str: ...

    @property
    def spawn(self) -> bool: ...

    def __getitem__(self, step: int) -> B_co: ...

    def identity(self) -> dict[str, Any]:
        """What the sequence of batches depends on: JSON-compatible, a few hundred bytes."""
        ...


class StepLoader(Generic[B]):
    """Hands out batches from any position on.

    `for batch in loader` gives the rest of the present epoch, and goes on where it stopped when it is iterated again;
    `forever()` passes over the borders. Workers live on from epoch to epoch.

    Args:
        source: what to hand out.
        workers: processes that make batches; 0: this one does.
        prefetch: batches that every worker makes in advance.
        pin: whether the arrays lie in page-locked memory, from which a GPU copies without waiting.
    """

    def __init__(self, source: StepSource[B], *, workers: int = 0, prefetch: int = 2, pin: bool = False) -> None:
        self.source, self.workers, self.prefetch, self.pin = source, workers, prefetch, pin
        self.step = 0
        self._stream: Iterator[B] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.step // self.source.per_epoch

    def __iter__(self) -> Iterator[B]:
        end = (self.epoch + 1) * self.source.per_epoch
        while self.step < end:
            yield self._next()

    def forever(self) -> Iterator[B]:
        """The batches from the present position on, without end."""
        while True:
            yield self._next()

    def _next(self) -> B:
        if self._stream is None:
            steps = itertools.count(self.step)
            if self.workers:
                self._stream = _from_workers(self.source, steps, self.workers, self.prefetch, self.pin)
            else:
                self._stream = (_pinned(self.source[step]) if self.pin else self.source[step] for step in steps)
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
        return {**self.source.identity(), "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where a loader with this state stood, whatever its ranks and workers were.

        Raises:
            UsageError: the state is of other data, another split, seed, batch size, ...; the message says which.
        """
        here = self.source.identity()
        differing = [
            f"{name} is {json.dumps(here.get(name))} here and {json.dumps(state.get(name))} in the state"
            for name in dict.fromkeys([*here, *state])
            if name != "step" and here.get(name) != state.get(name)
        ]
        step = state.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            differing.append(f"step is {json.dumps(step)} in the state")
        if differing:
            raise UsageError(
                f"the loader's state is not one of these batches: {'; '.join(differing)}",
                at=self.source.where,
                hint="resume with what the state was saved with, or start anew without it",
            )
        self.seek(int(state["step"]))


def _from_workers(source: StepSource[B], steps: Iterator[int], workers: int, prefetch: int, pin: bool) -> Iterator[B]:
    """The batches of some steps. Refers to no loader: the workers end as soon as nobody holds this iterator."""
    import torch
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Shipped(source),  # type: ignore[arg-type]
        sampler=steps,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if source.spawn else "fork",
        prefetch_factor=prefetch,
        collate_fn=_same,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        generator=torch.Generator(),  # torch would draw a seed for the workers from the global generator
    )
    with _ctrl_c_held_back(source.spawn):
        made = iter(loader)
    while True:
        try:
            batch = next(made)
        except RuntimeError as error:
            raise VtokError(
                f"a process that {source.work} was lost: {error}",
                at=source.where,
                hint="memory or /dev/shm may be full: fewer workers, a smaller batch or more shared memory",
            ) from error
        if isinstance(batch, VtokError):
            raise batch
        yield batch.opened()


class _Parcel:
    """A batch on its way from a worker: arrays as tensors, which torch hands over in shared memory.

    torch's DataLoader would look into a tuple for what it can pin, and make lists of all texts on the way; an object
    with `pin_memory` it asks.
    """

    def __init__(self, batch: tuple[Any, ...]) -> None:
        import torch

        self._kind = type(batch)
        self._fields = [torch.from_numpy(field) if isinstance(field, np.ndarray) else field for field in batch]

    def pin_memory(self) -> _Parcel:
        """The same in page-locked memory. DataLoader calls it, in a thread of the training process."""
        return _Parcel(_pinned(self.opened()))

    def opened(self) -> Any:
        """The batch, with arrays in the memory of the tensors."""
        import torch

        return self._kind(*(field.numpy() if isinstance(field, torch.Tensor) else field for field in self._fields))


class _Shipped:
    """Batches as workers send them: as parcels, and errors as values, as torch would rebuild them from their text."""

    def __init__(self, source: StepSource[Any]) -> None:
        self._source = source

    def __getitem__(self, step: int) -> _Parcel | VtokError:
        try:
            return _Parcel(self._source[step])
        except VtokError as error:
            return error


def _pinned(batch: B) -> B:
    """A batch whose arrays lie in page-locked memory."""
    return type(batch)(*(_page_locked(field) if isinstance(field, np.ndarray) else field for field in batch))


def _page_locked(array: np.ndarray) -> np.ndarray:
    import torch

    return torch.from_numpy(array).pin_memory().numpy()


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
