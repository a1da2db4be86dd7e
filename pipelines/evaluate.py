"""Evaluate: measures a run's finished artefacts and writes them down with intervals, counts and protocols.

The work is small and each protocol is one piece, so no Ray is started. `metrics/` holds what the last `vtok evaluate`
measured: where protocols or inputs have changed since, it is measured anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from schemas.card import CARD_NAME, PLAN_NAME, Card, Plan
from schemas.config.run import METRICS_FOLDER
from schemas.errors import UsageError
from schemas.metrics import METRICS
from schemas.paths import COPY_FIRST, as_path, local_only
from vtok import artefacts, console
from vtok.evaluation.protocols import PROTOCOLS, SETTINGS, not_possible
from vtok.evaluation.results import CLIPS_TABLE, CONFUSION_NAME, METRICS_TABLE, PER_CLIP
from vtok.files import sha256_of, write_json, write_table
from vtok.metrics_log import read_metrics, series

_THREADS = 1
"""Fixed, because sums on several threads differ in the last bits: figures must not depend on the machine's cores. The
nets are small, and on a busy machine one thread is far faster than two that wait for each other."""


def evaluate(run: Path, protocols: list[str] | None = None) -> Card:
    """Makes `metrics/` of the run from what its stages have finished.

    Args:
        run: the run's folder.
        protocols: names of `PROTOCOLS`; None: every one whose inputs are there, the others are named in a note.

    Raises:
        UsageError: an unknown protocol, one that was asked for lacks its inputs, or there is nothing to measure.
        IntegrityError: an artefact is damaged.
    """
    run = local_only(as_path(run), "vtok evaluate", COPY_FIRST)
    chosen, skipped = _choose(run, protocols)
    stages = sorted({stage for name in chosen for stage in (*PROTOCOLS[name].needs, *PROTOCOLS[name].uses)})
    inputs = {stage: artefacts.load(run / stage).fingerprint for stage in stages if (run / stage / CARD_NAME).exists()}
    plan = artefacts.make_plan("metrics", {"protocols": {name: SETTINGS[name] for name in chosen}}, inputs, [])
    folder = run / METRICS_FOLDER
    _clear_outdated(folder, plan)
    card = artefacts.begin(folder, plan)
    if card is not None:
        return card
    rows: list[dict[str, Any]] = []
    clips: list[dict[str, Any]] = []
    tables: dict[str, Any] = {}
    for name, reason in skipped.items():
        console.note(f"evaluate: {name} is skipped: {reason}")
    with _fixed_threads():
        for name in chosen:
            console.note(f"evaluate: {name} ...")
            found = PROTOCOLS[name].measure(run)
            rows, clips, tables = rows + found.rows, clips + found.clips, tables | found.tables
    write_table(folder / METRICS_TABLE, pa.Table.from_pylist(rows, schema=METRICS), point="metrics:table")
    write_table(folder / CLIPS_TABLE, pa.Table.from_pylist(clips, schema=PER_CLIP))
    written = [folder / METRICS_TABLE, folder / CLIPS_TABLE]
    if tables:
        write_json(folder / CONFUSION_NAME, tables)
        written.append(folder / CONFUSION_NAME)
    counts = {"metrics": len(rows), "rejects": 0, "bytes": sum(path.stat().st_size for path in written)}
    facts = {"protocols": chosen, "skipped": skipped, "logged_validation": _logged(run)}
    return artefacts.seal_card(folder, plan, index_sha256=sha256_of(folder / METRICS_TABLE), counts=counts, facts=facts)


def _choose(run: Path, protocols: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """The protocols to run, in their fixed order, and why the others are not."""
    if not run.is_dir():
        raise UsageError("no such folder", at=str(run), hint="give a run's folder; `vtok demo` makes one")
    unknown = sorted(set(protocols or []) - PROTOCOLS.keys())
    if unknown:
        raise UsageError(
            f"no protocol {', '.join(unknown)}", at="--protocol", hint=f"there are: {', '.join(PROTOCOLS)}"
        )
    wanted = [name for name in PROTOCOLS if not protocols or name in protocols]
    reasons = {name: not_possible(run, name) for name in wanted}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if skipped and (protocols or len(skipped) == len(wanted)):
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UsageError(
            f"cannot measure {listed}",
            at=str(run),
            hint="finish the stages first (`vtok status` says what comes next), or leave the protocol out",
        )
    return [name for name in wanted if name not in skipped], skipped


def _clear_outdated(folder: Path, plan: Plan) -> None:
    """Takes away metrics of another plan: the card first, the plan last, and only files that `evaluate` writes."""
    if not (folder / PLAN_NAME).exists():
        return
    there = artefacts.load_plan(folder)
    if there.kind != "metrics" or there.fingerprint == plan.fingerprint:
        return
    console.note("evaluate: protocols or inputs have changed since the last time; measuring anew")
    for name in (CARD_NAME, METRICS_TABLE, CLIPS_TABLE, CONFUSION_NAME, PLAN_NAME):
        (folder / name).unlink(missing_ok=True)


def _logged(run: Path) -> dict[str, float] | None:
    """The last validation that the prior's training logged, to hold beside the loss measured here."""
    points = series(read_metrics(run / "prior"), "val")
    return {"step": points[-1][0], "loss": points[-1][1]} if points else None


@contextmanager
def _fixed_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
