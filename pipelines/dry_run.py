"""What a job would do, in a few lines; nothing is written and no Ray is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipelines.runtime import Job
from schemas.card import CARD_NAME, PLAN_NAME
from schemas.config.run import ClusterConfig
from schemas.errors import UsageError
from schemas.paths import ObjectPath
from vtok import artefacts, console


def preview(job: Job, cluster: ClusterConfig) -> list[str]:
    """The plan of a job: items by split, frames, bytes, parts, time, and what is there already.

    Raises:
        UsageError: the job would be refused.
    """
    have = _parts_there(job)
    total = len(job.units)
    parts = console.count(total, "shards" if job.plan.kind == "shards" else "parts")
    lines = [f"dry run: {job.title} makes {parts} in {job.folder}; nothing is written now"]
    for split, number in sorted(job.splits.items()):
        lines.append(f"  {split:18} {console.count(number, job.item)}")
    if frames := sum(unit.frames for unit in job.units):
        lines.append(f"  {'frames to decode':18} {frames:,}")
    if size := sum(unit.bytes for unit in job.units):
        lines.append(f"  {'estimated size':18} {console.size(size)}{_room(job.folder, size)}")
    left = sum(unit.cost for unit in job.units if unit.name not in have) / max(sum(u.cost for u in job.units), 1e-9)
    workers = min(cluster.workers or max(2, os.cpu_count() or 1), max(1, total - len(have)))
    seconds = job.seconds() * left
    where = f" on {cluster.address}" if cluster.address else ""
    lines.append(
        f"  {'estimated time':18} about {console.duration(seconds / workers)} at "
        f"{console.count(workers, 'workers')}{where} (a running job measures its own speed)"
    )
    lines.append(f"  {'already there':18} {_state(job, have)}")
    return lines


def _parts_there(job: Job) -> set[str]:
    """Names of the parts that an earlier run finished."""
    folder = job.folder
    if (folder / PLAN_NAME).exists():
        there = artefacts.load_plan(folder)
        if there.fingerprint != job.plan.fingerprint:
            kept = job.keeps(there) if job.keeps is not None else None
            if kept is not None:
                return kept
            raise UsageError(
                f"the folder holds {there.kind} made from something else: the job would be refused",
                at=str(folder),
                hint="choose another `out`, or delete this folder to make it anew",
            )
        return {unit.name for unit in job.units if (folder / unit.name).exists()}
    return set()


def _state(job: Job, have: set[str]) -> str:
    if (job.folder / PLAN_NAME).exists() and artefacts.load_plan(job.folder).fingerprint != job.plan.fingerprint:
        return f"{len(have)} of {len(job.units)} parts, of an earlier version; they are checked and kept"
    if (job.folder / CARD_NAME).exists():
        return "complete: there is nothing to do"
    if (job.folder / PLAN_NAME).exists():
        return f"{len(have)} of {len(job.units)} parts; they are checked and kept"
    return "nothing"


def _room(folder: Path, size: int) -> str:
    """A warning if the disk has less room than that."""
    if isinstance(folder, ObjectPath):
        return ""
    existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    return f" - MORE THAN THE {console.size(free)} THAT ARE FREE" if size > free else ""
