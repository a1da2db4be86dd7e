"""NVDEC is an option of the ffmpeg decoder; without it the CPU gives the same frames, and the job says so once."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.config.data import ShardsConfig
from tests.video.making import numbers, write_video
from vtok.video import ffmpeg_run, frames_ffmpeg
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import ffmpeg_binary
from vtok.video.ffmpeg_run import cuda_problem
from vtok.video.probe import probe

_SPANS = [ClipSpan(s, 1, s / 25, (s + 4) / 25, None, 4) for s in (0, 10, 16)]


@pytest.fixture(autouse=True)
def _ask_anew() -> Iterator[None]:
    cuda_problem.cache_clear()
    yield
    cuda_problem.cache_clear()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", 20, size=(96, 96))


def _decode(path: Path, **options: Any) -> dict[int, Any]:
    settings = {"resolution": 48, "decoder": "ffmpeg", "hwaccel": "cuda", **options}
    return dict(decode_clips(path, probe(path), _SPANS, **settings))


def _program(path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """An ffmpeg that notes how it is called in `calls` and does `body` where the arguments are fit for it."""
    calls = path / "calls"
    program = path / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"real, calls = {ffmpeg_binary()!r}, {str(calls)!r}\n"
        "with open(calls, 'a') as log: log.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "arguments = sys.argv[1:]\n" + body + "\n"
        "os.execv(real, [real, *arguments])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    return calls


def test_the_frames_are_the_cpus_with_or_without_a_gpu(video: Path) -> None:
    wanted = _decode(video, hwaccel="none")
    for index, clip in _decode(video).items():
        np.testing.assert_array_equal(clip, wanted[index])
    assert "\n" not in str(cuda_problem()) and "0x" not in str(cuda_problem())


def test_an_ffmpeg_without_cuda_is_asked_once(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = "if '-init_hw_device' in arguments: sys.exit('Invalid device specification: unknown device type')"
    calls = _program(tmp_path, monkeypatch, refuse)
    for _ in range(2):
        assert numbers(_decode(video, resolution=96)[0]) == [0, 1, 2, 3]
    asked = [line for line in calls.read_text().splitlines() if "-init_hw_device" in line]
    assert len(asked) == 1
    assert "unknown device type" in str(cuda_problem())


def test_a_video_that_nvdec_cannot_begin_is_decoded_by_the_cpu(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is there, but not for this stream."""
    body = "if '-init_hw_device' in arguments: sys.exit(0)\nif '-hwaccel' in arguments: sys.exit('no such decoder')"
    calls = _program(tmp_path, monkeypatch, body)
    assert numbers(_decode(video, resolution=96)[1]) == [10, 11, 12, 13]
    decoding = [line for line in calls.read_text().splitlines() if "-f rawvideo" in line]
    assert ["-hwaccel cuda" in line for line in decoding] == [True, False]


def test_what_nvdec_gives_is_converted_as_the_cpus_frames_are(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVDEC's frames are NV12: an ffmpeg that decodes on the CPU and hands NV12 to the filters stands in for it."""
    body = (
        "if '-init_hw_device' in arguments: sys.exit(0)\n"
        "at = arguments.index('-hwaccel')\n"
        "del arguments[at : at + 2]\n"
        "at = arguments.index('-filter_complex') + 1\n"
        "arguments[at] = arguments[at].replace('select=', 'format=nv12,select=', 1)\n"
    )
    calls = _program(tmp_path, monkeypatch, body)
    by_nvdec = _decode(video)
    assert "-hwaccel cuda" in calls.read_text()
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    for index, clip in _decode(video, hwaccel="none").items():
        np.testing.assert_array_equal(by_nvdec[index], clip)


def test_a_failure_in_the_middle_is_no_reason_to_start_over(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_ffmpeg, "cuda_problem", lambda: None)
    runs: list[bool] = []

    def fail(run: Any, *, cuda: bool) -> Iterator[Any]:
        runs.append(cuda)
        yield 0, np.zeros((48, 48, 3), np.uint8)
        raise VideoError("corrupt", "in the middle")

    monkeypatch.setattr(ffmpeg_run.Run, "frames", fail)
    assert {clip.reason for clip in _decode(video).values()} == {"corrupt"}
    assert runs == [True]


def test_cuda_is_started_without_the_limit_on_address_space() -> None:
    code = (
        "import resource, subprocess\n"
        "from vtok.video.ffmpeg_run import without_memory_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))\n"
        "with without_memory_limit(): inner = subprocess.check_output(['sh', '-c', 'ulimit -v'], text=True)\n"
        "outer = subprocess.check_output(['sh', '-c', 'ulimit -v'], text=True)\n"
        "print(inner.strip(), outer.strip())\n"
    )
    inner, outer = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert outer == str(4 << 20)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    assert inner == ("unlimited" if hard == resource.RLIM_INFINITY else str(hard >> 10))


def test_the_config_wants_ffmpeg_for_it() -> None:
    assert ShardsConfig(hwaccel="cuda", decoder="ffmpeg").hwaccel == "cuda"
    with pytest.raises(ValueError, match="needs decoder ffmpeg"):
        ShardsConfig(hwaccel="cuda")
