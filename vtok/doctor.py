"""Looks at the machine: what works, what is missing, and how to fix it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.errors import VtokError
from vtok import console
from vtok.hardware import cpu_count, find_compiler
from vtok.versions import FFMPEG, PYTHON, RANGES, SAFE_CERTIFI, Range, installed, judge, parsed

OK, WARN, FAIL = "OK", "WARN", "FAIL"

_AGAIN = "install the tested versions: pip install -c constraints.txt -e ."
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
        _decoding,
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
            findings.append(Finding(check.__name__.lstrip("_"), FAIL, text, _AGAIN))
    return findings + _version_findings()


def _python() -> Finding:
    level, words, hint = _judged(platform.python_version(), PYTHON, "use one of these versions")
    return Finding("python", level, f"{words}, {cpu_count()} cores", hint)


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

    level, words, hint = _judged(torch.__version__, RANGES["torch"])
    return Finding("torch", level, f"{words}, {torch.get_num_threads()} threads by default", hint)


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

    level, words, hint = _judged(ffmpeg_version(), FFMPEG, "unset IMAGEIO_FFMPEG_EXE: pip brings one that is tested")
    return Finding("ffmpeg", level, f"{words} ({ffmpeg_binary()})", hint)


def _decoding() -> Finding:
    from vtok.video.self_test import check_decoding

    try:
        check_decoding()
    except Exception as error:  # whatever it is, no video can be decoded
        return Finding("decoding", FAIL, f"not even the built-in clip: {type(error).__name__}: {error}", _AGAIN)
    return Finding("decoding", OK, "the built-in clip is decoded right")


def _compiler() -> Finding:
    level, version, hint = _judged(importlib.metadata.version("deepspeed"), RANGES["deepspeed"])
    compiler = find_compiler()
    if compiler is None:
        return Finding(
            "deepspeed",
            WARN,
            f"{version}, but no C++ compiler: training falls back to plain torch in one process",
            "install g++ (Debian: apt-get install g++)",
        )
    return Finding("deepspeed", level, f"{version}, compiler {compiler}", hint)


def _version_findings() -> list[Finding]:
    """Every package that has no finding of its own."""
    found = []
    for package, known in RANGES.items():
        if package in ("torch", "deepspeed"):
            continue
        version = installed(package)
        if not version:
            found.append(Finding(package, FAIL, "not installed", _AGAIN))
            continue
        level, words, hint = _judged(version, known)
        found.append(Finding(package, level, words, hint))
    authorities = installed("certifi")
    if authorities and parsed(authorities) < parsed(SAFE_CERTIFI):
        hint = f"pip install -U certifi, as soon as there is {SAFE_CERTIFI}; only clients of object stores use it"
        found.append(Finding("certifi", WARN, f"{authorities} trusts an authority that was compromised", hint))
    return found


def _judged(version: str, known: Range, hint: str = "") -> tuple[str, str, str]:
    """Level, words and hint of a version."""
    judged = judge(version, known)
    if judged.usable and judged.tested:
        return OK, judged.words, ""
    level = WARN if judged.usable else FAIL
    return level, judged.words, hint or _AGAIN


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
