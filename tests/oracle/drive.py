"""Drives vtok's decoders over made files, in processes with poisoned memory."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracle.check import Fault, check_clips, check_whole
from tests.oracle.truth import Truth

ROOT = Path(__file__).resolve().parents[2]
JUNK = (0x55, 0xAA)
_PATIENCE = 120.0  # seconds; no file takes one
DECODERS, POLICIES = ("pyav", "ffmpeg"), ("reference", "fast")


@dataclass
class Case:
    """A file, what is right about it, and how to cut it.

    Attributes:
        name: what kind of file it is.
        plans: options of `schemas.config.data.DataConfig`.
        resolutions: of the clips.
        whole: whether to read it whole, too.
        decoders: that must be right.
    """

    name: str
    path: Path
    truth: Truth
    plans: list[dict[str, Any]]
    resolutions: list[int]
    whole: bool = True
    decoders: tuple[str, ...] = DECODERS
    policies: tuple[str, ...] = POLICIES


@dataclass
class Found:
    """A fault of a case, and where it showed."""

    case: Case
    fault: Fault
    how: str


class Worker:
    """One driving process."""

    def __init__(self, junk: int, build: Path, python: str, folder: Path) -> None:
        self.junk, self.build, self.python, self.folder = junk, build, python, folder
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(self.build), "MALLOC_PERTURB_": str(self.junk)}
        self.log = (self.folder / f"stderr-{self.junk}").open("ab")
        return subprocess.Popen(
            [self.python, "-P", str(Path(__file__).with_name("driver.py")), str(self.junk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            cwd=self.folder,
        )

    def send(self, job: dict[str, Any]) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(_PATIENCE):
                self.close(kill=True)
                return {"crash": f"no answer within {_PATIENCE:.0f} s"}
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.close()
            return {"crash": f"the process ended with {code}"}
        return dict(json.loads(line))

    def close(self, *, kill: bool = False) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()
        self.process = None


@dataclass
class Bench:
    """Two processes whose uninitialised memory differs."""

    workers: list[Worker]
    folder: Path
    jobs: int = 0
    digests: dict[tuple[str, ...], str] = field(default_factory=dict)

    def ask(self, job: dict[str, Any]) -> tuple[dict[str, Any], Any, list[Fault]]:
        """The first one's answer with its arrays, and whether the second one's is the same."""
        kept = self.folder / "kept.npz"
        self.jobs += 1
        for worker, keep in zip(self.workers, (str(kept), None), strict=True):
            worker.send(job | {"keep": keep})
        first, second = (worker.answer() for worker in self.workers)
        arrays = dict(np.load(kept)) if "crash" not in first else {}
        faults = []
        if first != second and "crash" not in first:
            faults.append(Fault("memory", "two runs with other junk in fresh memory differ"))
        return first, arrays, faults


@contextmanager
def bench(build: Path = ROOT, python: str = sys.executable) -> Iterator[Bench]:
    """Starts the processes on demand; `build` is the checkout whose vtok they import."""
    with tempfile.TemporaryDirectory(prefix="oracle-") as name:
        folder = Path(name)
        workers = [Worker(junk, build.resolve(), python, folder) for junk in JUNK]
        try:
            yield Bench(workers, folder)
        finally:
            for worker in workers:
                worker.close()


def examine(case: Case, machine: Bench) -> list[Found]:
    """All faults of a case; of each kind, the first of a run."""
    found: list[Found] = []
    path = str(case.path)
    if case.whole:
        answer, arrays, faults = machine.ask({"path": path, "plan": None})
        faults += check_whole(case.truth, answer, arrays)
        found += _kinds(case, faults, "read_video")
    for plan in case.plans:
        if plan.get("frame_rate") and not case.truth.times:
            continue
        for resolution in case.resolutions:
            for policy in case.policies:
                digests = {}
                how = f"{policy} at {resolution}, {' '.join(f'{key}={value}' for key, value in plan.items())}"
                for decoder in case.decoders:
                    job = {"path": path, "plan": plan, "resolution": resolution, "policy": policy, "decoder": decoder}
                    answer, arrays, faults = machine.ask(job)
                    faults += check_clips(case.truth, plan, answer, arrays, resolution)
                    found += _kinds(case, faults, f"{decoder} {how}")
                    digests[decoder] = [clip and clip.get("sha256") for clip in answer.get("clips", [])]
                if case.truth.equal and len(digests) == 2 and not any(item.how.endswith(how) for item in found):
                    both = zip(*digests.values(), strict=False)
                    differ = [number for number, (a, b) in enumerate(both) if a and b and a != b]
                    if differ:
                        fault = Fault("decoders differ", f"in clips {differ[:8]} of {len(answer['clips'])}")
                        found.append(Found(case, fault, how))
    return found


def _kinds(case: Case, faults: list[Fault], how: str) -> list[Found]:
    first: dict[str, Fault] = {}
    for fault in faults:
        first.setdefault(fault.kind, fault)
    return [Found(case, fault, how) for fault in first.values()]
