"""What the index of an MP4, MOV or AVI and the packets at its ends tell, against a pass over all packets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from tests.video.making import numbers, run_ffmpeg, write_video
from vtok.video.clips import ClipSpan
from vtok.video.container import choose_stream, open_video
from vtok.video.decode import decode_clips
from vtok.video.indexed import indexed_timeline
from vtok.video.probe import probe
from vtok.video.timeline import Timeline, read_timeline

RATE = 25

pytestmark = pytest.mark.skipif(
    not hasattr(VideoStream, "index_entries"), reason="PyAV before 17 shows no index: packets are counted"
)


def _indexed(path: Path) -> Timeline:
    with open_video(path) as container:
        stream = choose_stream(container)
        found = indexed_timeline(container, stream, float(1 / (stream.average_rate * stream.time_base)))
    assert found is not None
    return found


def _bytes_read() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


def _stamps(count: int) -> list[int]:
    """Times of frames, ms: holds here and there, all of them known."""
    return [40 * number + 120 * (number // 37) + 400 * (number // 151) for number in range(count)]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 frames of noise at uneven times, with B-frames and one key frame in 100: some megabytes."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    random, stamps = np.random.default_rng(0), _stamps(400)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 128, 128, "yuv420p", 100
        stream.options = {"preset": "ultrafast", "bf": "3", "b-pyramid": "normal", "crf": "18"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (128, 128), np.uint8), format="gray")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path


def test_every_frame_has_its_time(long: Path) -> None:
    found = _indexed(long)
    assert found.seconds == pytest.approx([stamp / 1000 for stamp in _stamps(400)], abs=1e-4)
    assert len(found.segments) == 1, "the index explains every hold"
    assert list(probe(long).times) == pytest.approx(found.seconds)


def test_little_of_a_long_file_is_read(long: Path) -> None:
    probe(long)
    before = _bytes_read()
    facts = probe(long)
    assert facts.frames == 400
    assert _bytes_read() - before < 0.45 * long.stat().st_size


@pytest.mark.parametrize("name", ["edited.mp4", "both.mov"])
def test_edit_lists(name: str, long: Path, tmp_path: Path) -> None:
    """Cut off in front, in the middle of a GOP, and behind."""
    path = tmp_path / name
    run_ffmpeg("-ss", 5.33, "-i", long, *(("-t", 7) if name == "both.mov" else ()), "-c", "copy", path)
    found, whole = _indexed(path), read_timeline(path, 0)
    assert (found.times, found.frames, found.duration) == (whole.times, whole.frames, whole.duration)
    assert found.frames < 330 and found.times[0] == 0


def test_a_file_that_is_cut_off(long: Path, tmp_path: Path) -> None:
    """With its index in front: what it promises is planned, and decoding says what is missing."""
    path = tmp_path / "whole.mp4"
    run_ffmpeg("-i", long, "-c", "copy", "-movflags", "+faststart", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = probe(path)
    assert facts.frames == 400
    assert facts.duration == pytest.approx((_stamps(400)[-1] + 40) / 1000, abs=0.2)


def test_dropped_frames_of_an_avi_are_holds(tmp_path: Path) -> None:
    """Empty chunks say that the frame before stays: frames 8 to 27 of 50 are left out."""
    path, plain = tmp_path / "a.avi", write_video(tmp_path / "plain.mp4", 50, size=(96, 96))
    run_ffmpeg("-i", plain, "-vf", "select='not(between(n,8,27))'", "-fps_mode", "vfr", "-c:v", "mpeg4", path)
    facts = probe(path)
    assert (facts.frames, facts.segments) == (30, ())
    assert facts.duration == pytest.approx(2.0)
    span = ClipSpan(None, None, 0.0, 2.0, 12.5, 25)
    ((_, clip),) = decode_clips(path, facts, [span], resolution=96)
    assert numbers(clip) == [0, 2, 4, 6, *[7] * 10, *range(28, 50, 2)]


@pytest.mark.parametrize("options", [{}, {"bf": "0"}, {"x264-params": "open-gop=1:bframes=3:keyint=20"}])
def test_even_videos_need_no_table(options: dict[str, Any], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 130, options={"preset": "veryfast", **options})
    facts = probe(path)
    assert (facts.times, facts.segments, facts.fps, facts.duration) == ((), (), 25.0, pytest.approx(5.2))
    assert _indexed(path).times == read_timeline(path, 0).times
