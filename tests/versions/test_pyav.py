"""The tests of decoding under other releases of PyAV and another Python. They need PyPI; the last one root and Debian's
mirror, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_OLDER = ("14.2.0", "15.1.0", "16.1.0", "17.1.0", "18.0.0")
"""The oldest that does, and the last or first of each major after it."""

_PACKAGES = ("av", "numpy", "pydantic", "pyyaml", "pillow", "ffmpeg-python", "imageio-ffmpeg", "h5py", "pyarrow")
_TOOLS = ("jaxtyping", "pytest", "pytest-timeout", "hypothesis", "google-crc32c", "einops", "beartype")
_NEED_MORE = ("media/test_audio.py", "test_transforms.py")
"""Tests of that folder that import Ray or torch."""

_MIRROR = "http://deb.debian.org/debian"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def decoding_tests(python: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Runs the tests of decoding in a process of its own; fails with what it says if one of them fails."""
    command = [*python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/video"]
    command += [f"--ignore=tests/video/{name}" for name in _NEED_MORE]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.parametrize("version", _OLDER)
def test_older_pyav(version: str, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "--target", tmp_path, f"av=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"av {version} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    decoding_tests(
        [sys.executable], _ROOT, {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}"}, _SAME_SCALER
    )


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """Debian 13 in a folder, with its own Python and the newest of everything but torch and Ray."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None or shutil.which("unshare") is None:
        pytest.skip("needs root and debootstrap (Debian: apt-get install debootstrap)")
    folder = tmp_path / "debian"
    include = "--include=python3,python3-venv,ca-certificates"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", include, "trixie", folder, _MIRROR],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"Debian 13 cannot be had here: {made.stdout.strip().splitlines()[-1]}")
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).exists():
            shutil.copy(name, folder / name.lstrip("/"))
    install = f"python3 -m venv /venv && /venv/bin/pip install --quiet {' '.join([*_PACKAGES, *_TOOLS])}"
    done = subprocess.run([*inside(folder), "sh", "-c", install], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"PyPI cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    for name in ("vtok", "schemas", "tests", "pipelines"):
        shutil.copytree(_ROOT / name, folder / "root" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", folder / "root")
    return folder


def inside(folder: Path) -> list[str]:
    """What runs a command in the folder as its root; what is mounted for that is gone with it."""
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", mounts, str(folder), "env", "-i", "HOME=/root", "PATH=/usr/bin:/bin"]


def test_newest_pyav_on_another_python(debian: Path) -> None:
    version = 'import av, sys; print(*sys.version_info[:2], av.__version__.split(".")[0])'
    said = subprocess.run([*inside(debian), "/venv/bin/python", "-c", version], stdout=subprocess.PIPE, check=True)
    assert [int(number) for number in said.stdout.split()] >= [3, 13, 19]
    python = [*inside(debian), "sh", "-c", 'cd /root && exec /venv/bin/python "$@"', "sh"]
    decoding_tests(python, debian, dict(os.environ))
