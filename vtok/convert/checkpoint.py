"""A checkpoint's tensors and hyper-parameters, read in a process of its own (`vtok.convert.child`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from schemas.errors import IntegrityError, UsageError, VtokError
from vtok.files import sha256_of

_PATIENCE_SECONDS = 3600
_WORDS_KEPT = 8192  # characters of the end of what the process complained of
_MODULE = "vtok.convert.child"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        sha256: of the file, hex.
        tensors: the state dict, without what `left_out` names; floating-point tensors are float32.
        left_out: shapes of discriminators, LPIPS and attention masks, which are not read.
        hyper: the hyper-parameters; an argparse namespace among them is a dict.
        facts: epoch, global_step, Lightning's version, where they are there.
        container: `zip` or `stream`.
    """

    path: Path
    sha256: str
    tensors: dict[str, torch.Tensor]
    left_out: dict[str, list[int]]
    hyper: dict[str, Any]
    facts: dict[str, Any]
    container: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a Lightning checkpoint, or a bare state dict that torch saved. Nothing that is pickled in it is run.

    Raises:
        UsageError: no such file, or not a checkpoint; or its pickle asks for a name that no checkpoint needs.
        IntegrityError: the file is cut short or damaged.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        what = "this is a folder" if path.is_dir() else "no such file"
        raise UsageError(what, at=str(path), hint="give a checkpoint: a .ckpt or .pt file that torch wrote")
    with tempfile.TemporaryDirectory(prefix="vtok-convert-") as temporary:
        folder = Path(temporary)
        _run_child(path.resolve(), folder)
        facts = json.loads((folder / "facts.json").read_text())
        try:
            tensors = load_file(folder / "tensors.safetensors")
        except SafetensorError as error:
            raise VtokError(f"the tensors did not come through: {error}", at=str(path)) from None
        tensors = {name: _as_float32(tensor) for name, tensor in tensors.items()}
    hyper = facts["hyper_parameters"]
    return Checkpoint(
        path=path,
        sha256=sha256_of(path),
        tensors=tensors,
        left_out=facts["left_out"],
        hyper=hyper if isinstance(hyper, dict) else {},
        facts=facts["facts"],
        container=facts["container"],
    )


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    # A copy in any case: the file that the tensor is mapped from goes away.
    return tensor.float().clone() if tensor.is_floating_point() else tensor.clone()


def _run_child(path: Path, folder: Path) -> None:
    """Runs the reader.

    Raises:
        UsageError, IntegrityError: what it says about the file.
        VtokError: it ended without a word.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", _MODULE, str(path), str(folder)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VtokError("reading the checkpoint took too long", at=str(path)) from None
    if done.returncode == 0:
        return
    report = folder / "error.json"
    if not report.exists():
        words = done.stderr.decode(errors="replace").strip()[-_WORDS_KEPT:]
        if done.returncode == 1 and "Traceback" in words:
            hint = "this is no fault of the checkpoint: please report it"
            raise VtokError(f"a fault of vtok while it reads a checkpoint:\n{words}", at=str(path), hint=hint)
        last = " ".join(words.splitlines()[-1:])
        raise VtokError(
            f"the process that reads the checkpoint ended with {_how(done.returncode)}: {last or 'no message'}",
            at=str(path),
            hint="it has limits on memory and time; a file that passes them is not a checkpoint of these systems",
        )
    error = json.loads(report.read_text())
    if error["kind"] == "refused":
        raise UsageError(f"refused: {error['message']}", at=str(path), hint=_advice(error["name"]))
    kind = IntegrityError if error["kind"] == "damaged" else UsageError
    raise kind(f"not a readable checkpoint: {error['message']}", at=str(path), hint="download or copy the file again")


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _advice(name: str) -> str:
    """What to do about a refused pickle."""
    if name:
        return f"nothing of it was run; {name} is no part of a checkpoint: load this file nowhere unless you trust it"
    return "nothing of it was run; where it came from, torch.save(model.state_dict(), FILE) saves the weights alone"
