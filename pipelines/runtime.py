"""The one way in which data jobs run: planned units, a pool of Ray actors, retries, and a seal at the end.

A job is a plan and a list of units. Each unit makes one part, whole and deterministic, and a unit whose part is there
and sound is never made again: that is all there is to resuming. One job at a time works in a folder; where the folder
is on an object store that cannot be enforced, and two jobs waste work but write the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.pool import Made, Pool, Unit
from pipelines.session import ray_session
from pipelines.stopping import stoppable
from schemas.card import PLAN_NAME, Card, Plan
from schemas.config.run import ClusterConfig
from schemas.errors import IntegrityError, VtokError
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.files import sweep_temporaries
from vtok.locks import exclusive
from vtok.rejects import reopen

__all__ = ["Job", "Proof", "Unit", "ray_session", "run_job"]


class Proof(NamedTuple):
    """What must be sound before an artefact that is there gives way to a new one; the job's workers read it.

    Attributes:
        worker: a `pipelines.pool.Worker` that makes nothing; `make` raises IntegrityError if what it read is damaged.
        init: arguments of `worker`.
        units: called with the names of the parts that stay: what is to be read.
    """

    worker: type
    init: tuple[Any, ...]
    units: Callable[[set[str]], list[Unit]]


@dataclass(frozen=True)
class Job:
    """Everything that a data stage is.

    Attributes:
        folder: the artefact's folder.
        plan: its plan; `plan.units` are the units' names.
        units: the work.
        worker: a `pipelines.pool.Worker`; `make(name, payload)` writes `folder / name`.
        init: arguments of `worker`.
        recover: reads the description of a part that an earlier run finished; raises IntegrityError if it is damaged or
            belongs to another plan.
        finish: called with all parts; writes what the artefact has besides them and returns (counts, facts).
        title, item: for the progress bar.
        seconds: estimate of one core's time for all units; may try a little of the work to find out.
        splits: items by split.
        keeps: called with the plan of what the folder holds, if that is another one: names of its parts that this job
            would make again byte for byte, or None if the folder is not this job's to change.
        proof: what is verified before the other parts of such a folder are removed, so that damage to what this job
            reads costs nothing that is there.
        gpus: GPUs that a worker holds, a fraction if several share one.
        device: `cpu` or `cuda`, where the phase `encode` runs on it; "": nowhere in particular.
    """

    folder: Path
    plan: Plan
    units: list[Unit]
    worker: type
    init: tuple[Any, ...]
    recover: Callable[[Path, Plan], Part]
    finish: Callable[[list[Part]], tuple[dict[str, int], dict[str, Any]]]
    title: str
    item: str
    seconds: Callable[[], float]
    splits: dict[str, int]
    keeps: Callable[[Plan], set[str] | None] | None = None
    proof: Proof | None = None
    gpus: float = 0.0
    device: str = ""


def run_job(job: Job, cluster: ClusterConfig) -> Card:
    """Makes every planned part that is not there yet, then seals the artefact.

    Args:
        job: the work.
        cluster: how many workers, where, and how long to wait.

    Returns:
        The card. An artefact that was complete already is not touched, but for units with `timeout` rejects.

    Raises:
        UsageError: the folder holds something else, or another job is at work in it.
        VtokError: a worker's error, or units that could not be made.
    """
    with stoppable(), exclusive(job.folder), ExitStack() as session:
        _take_over(job, cluster, session)
        card = artefacts.begin(job.folder, job.plan)
        same = artefacts.load_plan(job.folder).fingerprint == job.plan.fingerprint
        if card is not None and not (same and reopen(job.folder, ["timeout"])):
            return card
        done = _finished(job)
        bar = console.Progress(job.title, sum(u.items for u in job.units), job.item, sum(u.cost for u in job.units))
        todo = [unit for unit in job.units if unit.name not in done]
        bar.skip(
            sum(u.items for u in job.units) - sum(u.items for u in todo), bar.total_cost - sum(u.cost for u in todo)
        )
        try:
            if todo:
                with ray_session(cluster), bar:
                    pool = Pool(job.worker, job.init, cluster, gpus=job.gpus)
                    for made in pool.run(todo):
                        done[made.unit.name] = made.part
                        _show(bar, made)
                console.note(bar.verdict(pool.available, job.device))
        finally:  # of workers that were lost or ended; those that are left have nothing to write any more
            sweep_temporaries(job.folder)
        parts = [done[name] for name in job.plan.units]
        _blame_ourselves(job, parts)
        counts, facts = job.finish(parts)
        return artefacts.seal(job.folder, job.plan, parts, counts=counts, facts=facts)


def _take_over(job: Job, cluster: ClusterConfig, session: ExitStack) -> None:
    """Makes the folder this job's if it holds another plan's artefact and the job can use some of that.

    Ray, if it is needed here, runs until `session` ends: the job needs it next.
    """
    if job.keeps is None or not (job.folder / PLAN_NAME).exists():
        return
    there = artefacts.load_plan(job.folder)
    if there.fingerprint == job.plan.fingerprint:
        return
    kept = job.keeps(there)
    if kept is None:
        return
    if job.proof is not None and kept != set(there.units) and (todo := job.proof.units(kept)):
        session.enter_context(ray_session(cluster))
        costs = sum(unit.cost for unit in todo)
        with console.Progress(f"{job.title}: verify", sum(unit.items for unit in todo), job.item, costs) as bar:
            for made in Pool(job.proof.worker, job.proof.init, cluster).run(todo):
                _show(bar, made)
        console.note(f"what the other parts give way to can be made: {console.count(len(todo), 'inputs')} verified")
    artefacts.replan(job.folder, there, job.plan, kept)


def _finished(job: Job) -> dict[str, Part]:
    """The parts that are there and sound; damaged ones are removed."""
    done = {}
    for unit in job.units:
        path = job.folder / unit.name
        if path.exists():
            try:
                part = job.recover(path, job.plan)
                if _of_ours(part):
                    console.note(f"{unit.name} lacks clips by a fault of vtok and is made again")
                    path.unlink()
                else:
                    done[unit.name] = part
            except IntegrityError as error:
                console.note(f"{unit.name} is damaged and is made again ({error.what})")
                path.unlink()
    return done


def _of_ours(part: Part) -> list[dict[str, Any]]:
    """The rejects that no video is to blame for."""
    return [reject for reject in part.rejects if reject["reason"] == "internal"]


def _blame_ourselves(job: Job, parts: list[Part]) -> None:
    """A fault of ours seals nothing; what it did not touch is made and stays.

    Raises:
        VtokError: there was one.
    """
    faults = [reject for part in parts for reject in _of_ours(part)]
    if faults:
        sources = sorted({reject["source"] for reject in faults})
        raise VtokError(
            f"a fault of vtok cost {console.count(len(faults), 'rejects')} of {console.count(len(sources), 'files')}; "
            f"all else is made. The first: {faults[0]['detail']}",
            at=", ".join(map(console.name, sources[:3])) + (" ..." if sources[3:] else ""),
            hint="please report it with such a file; the same command tries these again, and without the files it ends "
            f"well (`vtok data rejects ls {job.folder}`)",
        )


def _show(bar: console.Progress, made: Made) -> None:
    bar.advance(
        made.unit.items,
        cost=made.unit.cost,
        frames=made.unit.frames,
        tokens=made.unit.tokens,
        size=made.part.bytes,
        rejects=Counter(reject["reason"] for reject in made.part.rejects),
        phases=made.work.phases,
        busy=made.work.seconds,
    )
