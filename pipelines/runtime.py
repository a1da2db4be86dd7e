"""The one way in which data jobs run: planned units, a pool of Ray actors, retries, and a seal at the end.

A job is a plan and a list of units. Each unit makes one part, whole and deterministic, and a unit whose part is there
and sound is never made again: that is all there is to resuming. Decoded frames and weights stay inside the actors; only
a `Part` (a few hundred bytes) travels back.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from schemas.card import CARD_NAME, Card, Plan
from schemas.config.run import ClusterConfig
from schemas.errors import IntegrityError, VtokError
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.files import sweep_temporaries

_START_TIMEOUT = 120.0  # seconds to wait for a worker to come up
_POLL = 1.0  # seconds between two looks at the workers


class Unit(NamedTuple):
    """One part to be made.

    Attributes:
        name: file name of the part.
        items: planned clips (or files), for the progress bar.
        payload: what the worker's `make` gets besides the name; kept small.
    """

    name: str
    items: int
    payload: Any


class Worker(Protocol):
    """What runs inside an actor."""

    def make(self, name: str, payload: Any) -> Part:
        """Makes one part and returns its description."""


@contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """Attaches to the cluster at `cluster.address`, or starts a Ray embedded in this process.

    A Ray that this process runs already is used and left running, so that a run of several stages starts it once.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster.address:
            ray.init(address=cluster.address, **common)
        else:
            _start_embedded(common)
    except Exception as error:  # Ray raises bare Exceptions, too
        ray.shutdown()
        raise VtokError(
            f"Ray does not start: {(str(error).splitlines() or [type(error).__name__])[0]}",
            at=cluster.address or "embedded Ray",
            hint="check cluster.address and RAY_AUTH_TOKEN"
            if cluster.address
            else "try again when the machine is less busy; see `vtok doctor`",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_embedded(common: dict[str, Any]) -> None:
    """Starts a Ray in this process; once more if its node is not up after the 30 s that Ray waits on a busy machine."""
    for attempt in range(2):
        try:
            ray.init(
                address="local",  # without it Ray looks for a cluster that someone else has started
                num_cpus=max(2, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=256 << 20,
                **common,
            )
            return
        except Exception as error:
            if attempt or "timed out" not in str(error):
                raise
            console.note("Ray did not start in time; trying once more")
            ray.shutdown()


def run_job(
    folder: Path,
    plan: Plan,
    units: list[Unit],
    *,
    worker: type,
    init: tuple[Any, ...],
    cluster: ClusterConfig,
    recover: Callable[[Path, Plan], Part],
    finish: Callable[[list[Part]], tuple[dict[str, int], dict[str, Any]]],
    title: str,
    item: str,
) -> Card:
    """Makes every planned part that is not there yet, then seals the artefact.

    Args:
        folder: the artefact's folder.
        plan: its plan; `plan.units` are the units' names.
        units: the work.
        worker: class whose instances live in the actors; `make(name, payload)` writes `folder/name`.
        init: arguments of `worker`.
        cluster: how many workers, where, and how long to wait.
        recover: reads the description of a part that an earlier run finished; raises IntegrityError if it is damaged or
            belongs to another plan.
        finish: called with all parts; writes what the artefact has besides them and returns (counts, facts).
        title, item: for the progress bar.

    Returns:
        The card. An artefact that was complete already is not touched, but for units with `timeout` rejects.
    """
    card = artefacts.begin(folder, plan)
    if card is not None and not _retry_timeouts(folder):
        return card
    done: dict[str, Part] = {}
    for unit in units:
        if (folder / unit.name).exists():
            try:
                done[unit.name] = recover(folder / unit.name, plan)
            except IntegrityError as error:
                console.note(f"{unit.name} is damaged and is made again ({error.what})")
                (folder / unit.name).unlink()
    with console.progress(title, sum(u.items for u in units), item) as bar:
        bar.skip(sum(u.items for u in units if u.name in done))
        todo = [u for u in units if u.name not in done]
        if todo:
            with ray_session(cluster), _terminated_like_interrupted():
                for unit, part in _run(todo, worker, init, cluster):
                    done[unit.name] = part
                    bar.advance(unit.items, len(part.rejects))
    sweep_temporaries(folder)  # of workers that were lost; those that are left have nothing to write any more
    parts = [done[name] for name in plan.units]
    counts, facts = finish(parts)
    return artefacts.seal(folder, plan, parts, counts=counts, facts=facts)


def _retry_timeouts(folder: Path) -> bool:
    """Removes the seal and the parts with `timeout` rejects, so that they are tried again; False if there are none."""
    rejects = artefacts.load_rejects(folder).to_pylist()
    if not any(row["reason"] == "timeout" for row in rejects):
        return False
    position = 0
    (folder / CARD_NAME).unlink()
    for row in artefacts.load_index(folder).to_pylist():
        mine = rejects[position : position + row["rejects"]]
        position += row["rejects"]
        if any(reject["reason"] == "timeout" for reject in mine):
            (folder / row["path"]).unlink(missing_ok=True)
    return True


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Turns SIGTERM (a scheduler's preemption) into KeyboardInterrupt, so that workers are ended and state is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Actor:
    """A worker that is made with its first unit, so that an error of its making reaches the driver like any other."""

    def __init__(self, worker: type, init: tuple[Any, ...]) -> None:
        self._worker, self._init = worker, init
        self._made: Worker | None = None

    def make(self, name: str, payload: Any) -> Part:
        if self._made is None:
            self._made = self._worker(*self._init)
        return self._made.make(name, payload)


def _run(units: list[Unit], worker: type, init: tuple[Any, ...], cluster: ClusterConfig) -> Iterator[tuple[Unit, Part]]:
    """Yields units as they finish, in any order; at most one unit per actor is in flight."""
    count = min(cluster.workers or max(1, int(ray.cluster_resources().get("CPU", 1))), len(units))
    remote: Any = ray.remote(_Actor).options(num_cpus=cluster.cpus_per_worker, max_restarts=0, max_task_retries=0)
    actors: dict[int, Any] = {index: remote.remote(worker, init) for index in range(count)}
    queue = list(reversed(units))
    flying: dict[Any, tuple[int, Unit, float]] = {}
    failures: dict[str, int] = {}
    try:
        for index in actors:
            if queue:
                _launch(actors, index, queue.pop(), flying)
        while flying:
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=_POLL)
            if not ready:
                _check_deadline(flying, cluster)
                continue
            reference = ready[0]
            index, unit, _ = flying.pop(reference)
            try:
                part = ray.get(reference, timeout=_START_TIMEOUT)
            except RayTaskError as error:
                raise _unwrap(error) from error
            except RayError as error:
                failures[unit.name] = failures.get(unit.name, 0) + 1
                if failures[unit.name] > cluster.retries:
                    raise VtokError(
                        f"the worker of this unit was lost {failures[unit.name]} times: {str(error).splitlines()[0]}",
                        at=unit.name,
                        hint="finished units are kept; look at memory (`vtok doctor`), then run the same command again",
                    ) from error
                console.note(f"worker lost while making {unit.name}; trying again")
                actors[index] = remote.remote(worker, init)
                _launch(actors, index, unit, flying)
                continue
            yield unit, part
            if queue:
                _launch(actors, index, queue.pop(), flying)
    finally:
        for actor in actors.values():
            ray.kill(actor)


def _launch(actors: dict[int, Any], index: int, unit: Unit, flying: dict[Any, tuple[int, Unit, float]]) -> None:
    flying[actors[index].make.remote(unit.name, unit.payload)] = (index, unit, time.monotonic())


def _check_deadline(flying: dict[Any, tuple[int, Unit, float]], cluster: ClusterConfig) -> None:
    for _, unit, start in flying.values():
        if time.monotonic() - start > cluster.unit_timeout:
            raise VtokError(
                f"a unit took longer than cluster.unit_timeout ({cluster.unit_timeout:.0f} s)",
                at=unit.name,
                hint="raise cluster.unit_timeout or make units smaller, then run the same command again",
            )


def _unwrap(error: RayTaskError) -> Exception:
    """The worker's own error where it was one for the user, else the whole remote traceback."""
    cause = error.cause
    if isinstance(cause, VtokError):
        return cause
    return RuntimeError(str(error))
