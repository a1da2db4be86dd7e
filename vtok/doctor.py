"""Looks at the machine: what works, what is missing, and how to fix it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.errors import VtokError
from vtok import console
from vtok.hardware import cpu_count, find_compiler

OK, WARN, FAIL = "OK", "WARN", "FAIL"

_ROOMS = ("vtok", "pipelines", "trainers", "schemas")
_NEEDED_DISK = 5 << 30  # bytes; the demo needs a tenth of it, real runs far more
_CONV3D_TOLERANCE = 2e-2  # relative; bf16 has 8 bits of mantissa


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        level: OK, WARN (works, but slower or partly) or FAIL.
        detail: what was found.
        hint: what to do about it; empty if nothing.
    """

    name: str
    level: str
    detail: str
    hint: str = ""


def examine() -> list[Finding]:
    """Runs every check; none of them raises."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _torch,
        _cuda,
        _ffmpeg,
        _ray,
        _compiler,
        _disk,
        _shared_memory,
    ]
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except VtokError as error:
            findings.append(Finding(check.__name__.lstrip("_"), FAIL, f"{error.what} {error.at}".strip(), error.hint))
        except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "install again: pip install -c constraints.txt -e ."
            findings.append(Finding(check.__name__.lstrip("_"), FAIL, text, hint))
    return findings


def _python() -> Finding:
    return Finding("python", OK, f"{'.'.join(map(str, sys.version_info[:3]))}, {cpu_count()} cores")


def _packages() -> Finding:
    """PyPI has unrelated packages named like two of ours; an install of one of them would shadow ours."""
    root = Path(__file__).resolve().parent.parent
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        place = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if place != root:
            hint = f"another package named {room} is installed: pip uninstall {room}, then install vtok again"
            return Finding("packages", FAIL, f"{room} comes from {place}, not from {root}", hint)
    return Finding("packages", OK, f"vtok {importlib.metadata.version('vtok')} in {root}")


def _torch() -> Finding:
    import torch

    return Finding("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads by default")


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("cuda", WARN, "no CUDA device: everything runs on the CPU, training slowly")
    x = torch.randn(1, 32, 8, 32, 32, device="cuda")
    w = torch.randn(32, 32, 3, 3, 3, device="cuda")
    exact = torch.nn.functional.conv3d(x, w, padding=1)
    rounded = torch.nn.functional.conv3d(x.bfloat16(), w.bfloat16(), padding=1).float()
    error = float((exact - rounded).abs().max() / exact.abs().max())
    detail = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}"
    if error > _CONV3D_TOLERANCE:
        return Finding("cuda", WARN, f"{detail}; bf16 conv3d is off by {error:.1%}", "train in fp32, or update cuDNN")
    return Finding("cuda", OK, f"{detail}; bf16 conv3d agrees with fp32 to {error:.1%}")


def _ffmpeg() -> Finding:
    from vtok.video.ffmpeg import ffmpeg_binary, ffmpeg_version

    return Finding("ffmpeg", OK, f"{ffmpeg_version()} ({ffmpeg_binary()})")


def _ray() -> Finding:
    return Finding("ray", OK, importlib.metadata.version("ray"))


def _compiler() -> Finding:
    version = importlib.metadata.version("deepspeed")
    compiler = find_compiler()
    if compiler is None:
        return Finding(
            "deepspeed",
            WARN,
            f"{version}, but no C++ compiler: training falls back to plain torch in one process",
            "install g++ (Debian: apt-get install g++)",
        )
    return Finding("deepspeed", OK, f"{version}, compiler {compiler}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{console.size(free)} free in {Path.cwd()}"
    if free < _NEEDED_DISK:
        return Finding("disk", WARN, detail, "choose an `out` on a larger disk")
    return Finding("disk", OK, detail)


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("shm", WARN, "no /dev/shm: Ray keeps its objects on the disk")
    free = shutil.disk_usage(path).free
    if free < 512 << 20:
        return Finding("shm", WARN, f"{console.size(free)} free in /dev/shm", "in Docker: run with --shm-size=1g")
    return Finding("shm", OK, f"{console.size(free)} free in /dev/shm")
