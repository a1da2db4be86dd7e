"""Checkpoints: a folder a step, complete or not there, verified before it is trusted.

`checkpoints/step-00000500/` holds a subfolder an engine and `state.json` with the sha256 of every file and of itself.
It is written under a temporary name and renamed. Loading takes the newest one whose bytes are right; a damaged one is
skipped with a message. Whoever made a folder made its sha256, too: what is in the files is loaded as data only
(trainers/only_data.py).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.card import read_record, with_checksum
from schemas.errors import UsageError, VtokError
from trainers.engine import Engine, barrier, rank
from vtok import console
from vtok.files import TEMP_MARK, crash_point, sha256_of, write_json

FOLDER = "checkpoints"
STATE_NAME = "state.json"


def save(
    run: Path,
    kind: str,
    step: int,
    engines: Mapping[str, Engine],
    state: dict[str, Any],
    keep: int,
    *,
    best: bool = False,
) -> Path:
    """Writes a checkpoint and deletes all but the newest `keep`. Called on every rank.

    Args:
        run: the run's folder.
        kind: `tokenizer` or `prior`.
        step: batches trained on so far.
        engines: saved under their names.
        state: JSON-compatible, e.g. the plan's fingerprint; handed back by `find`. `score`: how good the validation at
            this step was, the lower the better; what is no finite number does not count.
        keep: how many to keep.
        best: keep the one with the lowest score besides.

    Raises:
        VtokError: the disk is full; earlier checkpoints are untouched.
    """
    root = run / FOLDER
    temp, final = root / f"{TEMP_MARK}step-{step:08d}", root / _name(step)
    if rank() == 0:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
    barrier()
    try:
        for name, engine in engines.items():
            engine.save(temp / name)
        barrier()
        if rank() == 0:
            files = sorted(p for p in temp.rglob("*") if p.is_file())
            digests = {p.relative_to(temp).as_posix(): sha256_of(p) for p in files}
            record = {**state, "kind": kind, "step": step, "files": digests}
            write_json(temp / STATE_NAME, with_checksum(record))
            crash_point(f"{kind}:checkpoint-{step}:before_rename")
            shutil.rmtree(final, ignore_errors=True)
            temp.rename(final)
            crash_point(f"{kind}:checkpoint-{step}:after_rename")
            kept = {_best_step(run)} if best else set()
            for old in list_steps(run)[:-keep]:
                if old not in kept:
                    shutil.rmtree(root / _name(old))
    except (OSError, RuntimeError, VtokError) as error:  # torch.save reports a full disk as a RuntimeError
        raise VtokError(
            f"cannot write the checkpoint: {_reason(error)}",
            at=str(final),
            hint="earlier checkpoints are intact; make room, then run the same command again",
        ) from error
    finally:
        if rank() == 0:
            shutil.rmtree(temp, ignore_errors=True)
    barrier()
    return final


def _reason(error: OSError | RuntimeError | VtokError) -> str:
    if isinstance(error, VtokError):
        return error.what
    return (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]


def list_steps(run: Path) -> list[int]:
    """Steps of the checkpoints that are there, ascending."""
    root = run / FOLDER
    if not root.is_dir():
        return []
    return sorted(int(p.name.removeprefix("step-")) for p in root.iterdir() if p.name.startswith("step-"))


def best_score(run: Path) -> float:
    """The lowest score among the checkpoints that are there; infinity where there is none."""
    return min(_scores(run).values(), default=math.inf)


def _best_step(run: Path) -> int | None:
    scores = _scores(run)
    return min(scores, key=lambda step: (scores[step], step)) if scores else None


def _scores(run: Path) -> dict[int, float]:
    """Finite scores by step; a checkpoint whose state cannot be read has none."""
    found = {}
    for step in list_steps(run):
        try:
            score = _read_state(run / FOLDER / _name(step)).get("score")
        except (OSError, ValueError):
            continue
        if isinstance(score, int | float) and math.isfinite(score):
            found[step] = float(score)
    return found


def set_aside(run: Path) -> None:
    """Renames the checkpoints of an earlier attempt, so that a run that starts anew does not mix with them."""
    root = run / FOLDER
    if rank() == 0 and list_steps(run):
        old = root.with_name(f"{FOLDER}.old")
        shutil.rmtree(old, ignore_errors=True)
        root.rename(old)
        console.note(f"starting anew; the checkpoints of the earlier attempt are now in {old}")
    barrier()


def find(run: Path, resume: str, kind: str, plan: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to resume from, with its state.

    Args:
        run: the run's folder.
        resume: `auto` (the newest sound one, if any), `never`, or a checkpoint's folder.
        kind: what the checkpoint must be of.
        plan: fingerprint of the plan that it must belong to.

    Raises:
        UsageError: the named checkpoint is missing, damaged, of another kind or of another plan.
    """
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume)
        problem = _problem(path)
        if problem:
            raise UsageError(f"not a sound checkpoint: {problem}", at=resume, hint=f"see {run / FOLDER}")
        state = _read_state(path)
        if state["kind"] != kind:
            raise UsageError(
                f"a checkpoint of a {state['kind']}, not of a {kind}", at=resume, hint=f"give one below {run / FOLDER}"
            )
        if state["plan"] != plan:
            raise UsageError(
                "the checkpoint belongs to a run with another config or other data",
                at=resume,
                hint="resume it with the recipe that made it (see _plan.json beside it)",
            )
        return path, state
    for step in reversed(list_steps(run)):
        path = run / FOLDER / _name(step)
        problem = _problem(path)
        if problem is None and (state := _read_state(path))["plan"] == plan:
            return path, state
        console.note(f"checkpoint {path.name} is skipped: {problem or 'it belongs to another plan'}")
    return None


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    if not path.is_dir():
        return "no such folder"
    try:
        state = _read_state(path)
        if not {"kind", "plan", "step"} <= state.keys():
            return f"{STATE_NAME} is damaged"
        for name, digest in state["files"].items():
            if sha256_of(path / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{STATE_NAME} or a file cannot be read ({type(error).__name__})"
    return None


def _read_state(path: Path) -> dict[str, Any]:
    return read_record((path / STATE_NAME).read_bytes())


def _name(step: int) -> str:
    return f"step-{step:08d}"
