from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from schemas.clips import REASONS
from tests.video.making import needs_real_clips, numbered_frame, real_clips, write_audio, write_video
from vtok.video.errors import Reason, VideoError
from vtok.video.probe import probe


def _reason(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert caught.value.detail
    assert str(path.parent) not in caught.value.detail  # rejects are the same on every machine
    return caught.value.reason


def test_reasons_are_the_contract() -> None:
    assert set(get_args(Reason)) == set(REASONS)


def test_errors_survive_another_process() -> None:
    error = pickle.loads(pickle.dumps(VideoError("corrupt", "why")))  # noqa: S301 (ours)
    assert (error.reason, error.detail) == ("corrupt", "why")


@pytest.mark.parametrize(
    ("name", "codec", "exact"),
    [
        ("a.mp4", "libx264", False),
        ("a.mkv", "libx264", True),
        ("a.avi", "mpeg4", False),
        ("a.webm", "libvpx-vp9", True),
        ("a.ts", "libx264", True),
    ],
)
def test_facts(name: str, codec: str, exact: bool, tmp_path: Path) -> None:
    facts = probe(write_video(tmp_path / name, 30, codec=codec))
    assert (facts.frames, facts.frames_exact) == (30, exact)
    assert (facts.height, facts.width, facts.rotation, facts.has_audio) == (64, 96, 0, False)
    assert facts.fps == pytest.approx(25, rel=1e-3)
    assert facts.duration == pytest.approx(1.2, abs=0.02)


def test_a_fragmented_file_is_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "f.mp4", 50, container_options={"movflags": "frag_keyframe+empty_moov"})
    assert probe(path)[5:7] == (50, True)


def test_the_stream_with_most_pixels_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for height, width in ((32, 48), (64, 96)):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append((stream, height, width))
        for number in range(5):
            for stream, height, width in streams:
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, height, width), format="rgb24")
                container.mux(stream.encode(frame))
        for stream, _, _ in streams:
            container.mux(stream.encode())
    facts = probe(path)
    assert (facts.stream, facts.height, facts.width) == (1, 64, 96)


def test_rejects(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 20).read_bytes()
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    assert _reason(tmp_path / "zero.mp4") == "empty"
    assert _reason(tmp_path / "text.mp4") == "unreadable"
    assert _reason(tmp_path / "noise.avi") == "unreadable"
    assert _reason(tmp_path / "no_index.mp4") == "unreadable"
    assert _reason(tmp_path / "gone.mp4") == "vanished"
    assert _reason(tmp_path) == "unreadable"
    assert _reason(write_audio(tmp_path / "sound.mp4")) == "no_video"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert _reason(tmp_path / "pipe.mp4") == "unreadable"  # and does not wait for a writer


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permissions(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    path.chmod(0)
    assert _reason(path) == "unreadable"


def test_a_system_error_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 5)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(av, "open", refuse)
    assert _reason(path) == "unreadable"


@pytest.mark.parametrize(
    "name", ["a b.mp4", "тест é 漢.mp4", "new\nline.mp4", "pipe:0.mp4", "50%d.mp4", "-y.mp4", "q'\".mp4"]
)
def test_names(name: str, tmp_path: Path) -> None:
    assert probe(write_video(tmp_path / "a.mp4", 5).rename(tmp_path / name)).frames == 5


@needs_real_clips
def test_real_clips() -> None:
    known = {
        "nasa_13013_with_audio.mp4": (3, 390, 270, 480, 0, True),
        "rotation_90.mov": (0, 3, 568, 320, 270, False),
        "rotated90_4s.mp4": (0, 112, 340, 256, 90, False),
        "vfr_4s.mp4": (0, 59, 256, 340, 0, False),
        "av1_video.mkv": (0, 125, 360, 640, 0, False),
        "tenbit_4s.mp4": (0, 112, 256, 340, 0, False),
    }
    for path in real_clips():
        if path.name == "truncated.mp4":
            assert _reason(path) == "unreadable"
            continue
        f = probe(path)
        if path.name in known:
            assert (f.stream, f.frames, f.height, f.width, f.rotation, f.has_audio) == known[path.name]


def test_a_codec_that_nobody_knows_is_unreadable(tmp_path: Path) -> None:
    """Its stream has no codec context, and without one PyAV's streams have not even a width."""
    path = write_video(tmp_path / "a.mov", 12)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1", b"\x01\x02\x03\x04").replace(b"avcC", b"zzzz"))
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert caught.value.reason == "unreadable"
    assert "decoder" in caught.value.detail
