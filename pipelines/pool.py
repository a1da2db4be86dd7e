"""A pool of Ray actors that makes units: the dearest first, one at a time each, lost ones again, stragglers twice.

What travels through Ray is a unit's name and a small payload one way and a `Part` the other: decoded frames and
weights stay in the actors, so work in flight is bounded by the number of workers. A unit is given only to an actor that
answers; an actor that the cluster has no room for holds nothing up.

A unit that loses its worker is tried again, `cluster.retries` times; after that, or after `cluster.unit_timeout`, it is
set aside, the others are made, and the job fails with its name. (Decoding runs in a child process with limits of its
own, so what kills a worker is the machine: no memory, a lost node. Which video was being decoded then is no evidence
against the video, and a reject would make the result depend on the machine.) A worker lost together with its node is
not held against the unit until that has happened ten times.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from schemas.config.run import ClusterConfig
from schemas.errors import VtokError
from vtok import console
from vtok.artefacts import Part
from vtok.stopwatch import Stopwatch

_ANSWER_TIMEOUT = 120.0  # seconds to wait for a result that is ready
_POLL = 1.0  # seconds between two looks at the workers
_FAREWELL = 10.0  # seconds to wait for killed workers that were writing
_NODE_LOSSES = 10
_ENOUGH = 3  # finished units that make an expectation


class Unit(NamedTuple):
    """One part to be made.

    Attributes:
        name: file name of the part.
        items: planned clips (or files), for the progress bar.
        payload: what the worker's `make` gets besides the name; kept small.
        cost: estimated seconds, or anything in proportion to them.
        frames: source frames that have to be decoded; 0 if that is not what the work is.
        bytes: estimated size of the part; 0 if unknown.
        tokens: codes that it will hold; 0 if it holds none.
    """

    name: str
    items: int
    payload: Any
    cost: float = 1.0
    frames: int = 0
    bytes: int = 0
    tokens: int = 0


class Worker(Protocol):
    """What runs inside an actor.

    Attributes:
        clock: where `make` spends its time.
    """

    clock: Stopwatch

    def make(self, name: str, payload: Any) -> Part:
        """Makes one part and returns its description."""


class Work(NamedTuple):
    """What making a part took.

    Attributes:
        seconds: in the worker.
        phases: seconds by phase, of the worker's `clock`.
    """

    seconds: float
    phases: dict[str, float]


class Made(NamedTuple):
    """A finished unit."""

    unit: Unit
    part: Part
    work: Work


class _Actor:
    """A worker that is made with its first unit, so that an error of its making reaches the driver like any other."""

    def __init__(self, worker: type, init: tuple[Any, ...]) -> None:
        self._worker, self._init = worker, init
        self._made: Worker | None = None

    def place(self) -> tuple[str, str]:
        """Node and host that this runs on."""
        return ray.get_runtime_context().get_node_id(), socket.gethostname()

    def make(self, name: str, payload: Any) -> tuple[Part, Work]:
        started = time.monotonic()
        if self._made is None:
            self._made = self._worker(*self._init)
        ready = time.monotonic()
        part = self._made.make(name, payload)
        phases = {"start": ready - started, **self._made.clock.take()}
        return part, Work(time.monotonic() - started, phases)


@dataclass(eq=False)
class _Seat:
    """One actor and where it is."""

    actor: Any
    since: float
    node: str = ""
    host: str = ""


@dataclass(eq=False)
class _Flight:
    """A unit being made."""

    seat: _Seat
    unit: Unit
    start: float
    late: bool = False


class Pool:
    """Makes units with actors of a running Ray.

    Args:
        worker: class whose instances live in the actors.
        init: its arguments.
        cluster: how many workers and how long to wait.
        gpus: GPUs that a worker holds; the workers are then at most as many as the cluster's GPUs allow.

    Attributes:
        available: seconds that workers were there for, for the share in which they were busy.
    """

    def __init__(self, worker: type, init: tuple[Any, ...], cluster: ClusterConfig, *, gpus: float = 0.0) -> None:
        options = {"num_cpus": cluster.cpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
        if gpus:
            options["num_gpus"] = gpus
        self._gpus = gpus
        self._remote: Any = ray.remote(_Actor).options(**options)  # type: ignore[call-overload]
        self._worker, self._init, self._cluster = worker, init, cluster
        self._starting: dict[Any, _Seat] = {}
        self._idle: list[_Seat] = []
        self._flying: dict[Any, _Flight] = {}
        self._queue: list[Unit] = []
        self._left: set[str] = set()
        self._losses: dict[str, int] = {}
        self._node_losses: dict[str, int] = {}
        self._aside: dict[str, str] = {}
        self._failed_starts = 0
        self._paces: list[float] = []
        self._ended: list[Any] = []
        self.available = 0.0

    def run(self, units: list[Unit]) -> Iterator[Made]:
        """Yields units as they finish, in any order.

        Raises:
            VtokError: a worker's own error, at once; units that were set aside, when all others are made.
        """
        self._queue = sorted(units, key=lambda unit: -unit.cost)[::-1]
        self._left = {unit.name for unit in units}
        try:
            for _ in range(min(self._seats(), len(units))):
                self._hire()
            looked = time.monotonic()
            while self._left:
                self._assign()
                ready, _ = ray.wait([*self._starting, *self._flying], num_returns=1, timeout=_POLL)
                for reference in ready:
                    if reference in self._starting:
                        self._seated(reference)
                    elif (made := self._landed(reference)) is not None:
                        yield made
                if time.monotonic() - looked >= _POLL:
                    looked = time.monotonic()
                    self._look()
        finally:
            self._close()
        if self._aside:
            raise self._failure()

    def _seats(self) -> int:
        """How many workers there are to be.

        Raises:
            VtokError: they need a GPU, and the cluster has none.
        """
        have = ray.cluster_resources()
        if not self._gpus:
            return self._cluster.workers or max(1, int(have.get("CPU", 1)))
        seats = int(have.get("GPU", 0) / self._gpus)
        if not seats:
            raise VtokError(
                "the cluster has no GPU",
                at=self._cluster.address or "embedded Ray",
                hint="add a node with one, or set tokens.device: cpu",
            )
        return min(seats, self._cluster.workers or seats)

    def _hire(self) -> None:
        actor = self._remote.remote(self._worker, self._init)
        self._starting[actor.place.remote()] = _Seat(actor, time.monotonic())

    def _seated(self, reference: Any) -> None:
        seat = self._starting.pop(reference)
        try:
            seat.node, seat.host = ray.get(reference, timeout=_ANSWER_TIMEOUT)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts > self._cluster.retries + len(self._starting):
                raise VtokError(
                    f"workers do not start: {_first_line(error)}",
                    at=self._cluster.address or "embedded Ray",
                    hint="vtok of the same version must be installed on every node; look at memory, too",
                ) from error
            self._hire()
            return
        self._failed_starts = 0
        seat.since = time.monotonic()
        self._idle.append(seat)

    def _assign(self) -> None:
        while self._idle and self._queue:
            self._launch(self._idle.pop(), self._queue.pop())
        if not self._queue and self._idle:
            self._double()

    def _launch(self, seat: _Seat, unit: Unit) -> None:
        reference = seat.actor.make.remote(unit.name, unit.payload)
        self._flying[reference] = _Flight(seat, unit, time.monotonic())

    def _double(self) -> None:
        """Idle workers on other nodes try their luck at stragglers: whoever is first wins, the bytes are the same."""
        for flight in [flight for flight in self._flying.values() if flight.late]:
            if sum(other.unit.name == flight.unit.name for other in self._flying.values()) > 1:
                continue
            seat = next((seat for seat in self._idle if seat.node != flight.seat.node), None)
            if seat is not None:
                self._idle.remove(seat)
                console.note(f"{flight.unit.name} is being made a second time on {seat.host}")
                self._launch(seat, flight.unit)

    def _landed(self, reference: Any) -> Made | None:
        flight = self._flying.pop(reference)
        try:
            part, work = ray.get(reference, timeout=_ANSWER_TIMEOUT)
        except RayTaskError as error:
            raise _unwrap(error) from error
        except RayError as error:
            self._lost(flight, error)
            return None
        self._idle.append(flight.seat)
        self._left.discard(flight.unit.name)
        self._paces.append(work.seconds / max(flight.unit.cost, 1e-9))
        for other, twin in list(self._flying.items()):
            if twin.unit.name == flight.unit.name:
                self._dismiss(twin.seat)
                self._ended.append(other)
                del self._flying[other]
                self._replace()
        return Made(flight.unit, part, work)

    def _lost(self, flight: _Flight, error: RayError) -> None:
        self._dismiss(flight.seat)
        name = flight.unit.name
        if any(other.unit.name == name for other in self._flying.values()):
            return
        with_node = not any(node["NodeID"] == flight.seat.node and node["Alive"] for node in ray.nodes())
        losses, most = (self._node_losses, _NODE_LOSSES) if with_node else (self._losses, self._cluster.retries)
        losses[name] = losses.get(name, 0) + 1
        if losses[name] > most:
            self._replace()
            self._set_aside(flight.unit, f"its worker was lost {losses[name]} times: {_first_line(error)}")
            return
        console.note(f"worker lost while making {name}{' (with its node)' if with_node else ''}; trying again")
        self._queue.append(flight.unit)
        self._replace()

    def _replace(self) -> None:
        """A new worker for one that is gone, if there is work that nobody has begun."""
        if self._queue:
            self._hire()

    def _set_aside(self, unit: Unit, why: str) -> None:
        self._aside[unit.name] = why
        self._left.discard(unit.name)
        if self._left:
            console.note(f"{unit.name} is set aside, the others are made first: {why}")

    def _look(self) -> None:
        """Deadlines, stragglers, and a cluster without room."""
        now = time.monotonic()
        pace = statistics.median(self._paces) if len(self._paces) >= _ENOUGH else None
        for reference, flight in list(self._flying.items()):
            elapsed = now - flight.start
            if elapsed > self._cluster.unit_timeout:
                del self._flying[reference]
                self._ended.append(reference)
                self._dismiss(flight.seat)
                self._replace()
                limit = f"it took longer than cluster.unit_timeout ({self._cluster.unit_timeout:.0f} s)"
                self._set_aside(flight.unit, limit)
            elif pace is not None and not flight.late:
                expected = pace * flight.unit.cost
                if elapsed > max(self._cluster.straggler_factor * expected, self._cluster.straggler_seconds):
                    flight.late = True
                    console.note(
                        f"{flight.unit.name} takes long: {console.duration(elapsed)} on {flight.seat.host} so far, "
                        f"{console.duration(expected)} expected"
                    )
        if self._starting and not self._cluster.address and not any(node["Alive"] for node in ray.nodes()):
            raise VtokError(
                "the embedded Ray has lost its node",
                at="raylet",
                hint="look at memory (`vtok doctor`), then run the same command again: what is finished is kept",
            )
        if self._left and not self._flying and not self._idle:
            waited = now - min(seat.since for seat in self._starting.values())
            if waited > self._cluster.start_timeout:
                raise VtokError(
                    f"no worker could be started within cluster.start_timeout ({self._cluster.start_timeout:.0f} s)",
                    at=self._cluster.address or "embedded Ray",
                    hint="the cluster has no free CPU: wait, add nodes, or lower cluster.cpus_per_worker",
                )

    def _failure(self) -> VtokError:
        name, why = next(iter(self._aside.items()))
        others = (
            f" (and {len(self._aside) - 1} more: {', '.join(list(self._aside)[1:4])})" if len(self._aside) > 1 else ""
        )
        return VtokError(
            f"a unit could not be made: {why}{others}",
            at=name,
            hint="all other units are finished and kept; look at memory (`vtok doctor`) and at cluster.unit_timeout, "
            "then run the same command again",
        )

    def _dismiss(self, seat: _Seat) -> None:
        self.available += time.monotonic() - seat.since
        ray.kill(seat.actor)

    def _close(self) -> None:
        """Ends all workers and waits until those that were writing are gone: what they leave can then be swept."""
        for seat in [*self._idle, *(flight.seat for flight in self._flying.values())]:
            self._dismiss(seat)
        for seat in self._starting.values():
            ray.kill(seat.actor)
        pending = [*self._flying, *self._ended]
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=_FAREWELL)
        self._idle, self._starting, self._flying = [], {}, {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unwrap(error: RayTaskError) -> Exception:
    """The worker's own error where it was one for the user, else the whole remote traceback."""
    cause = error.cause
    if isinstance(cause, VtokError):
        return cause
    return RuntimeError(str(error))
