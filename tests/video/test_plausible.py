"""Headers with flipped bits: a file that contradicts itself plans no clips, and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.clips import REASONS
from schemas.config.data import DataConfig
from tests.video.making import run_ffmpeg, write_video
from vtok.rejects import REMEDIES
from vtok.video import clips
from vtok.video.clips import plan_clips, plan_windows
from vtok.video.errors import VideoError
from vtok.video.plausible import Declared, must_be_plausible
from vtok.video.probe import StreamFacts, probe

FRAMES = 63
CONFIG = DataConfig(root=".", num_frames=16, frame_rate=8.0)


def _plans(path: Path, data: bytes, places: range) -> dict[int, int | VideoError]:
    """For each bit of these bytes: the number of clips that are planned with it flipped, or why there are none."""
    found: dict[int, int | VideoError] = {}
    for bit in range(8 * places.start, 8 * places.stop):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found[bit] = len(plan_clips(probe(path), CONFIG))
        except VideoError as error:
            found[bit] = error
        except MemoryError:  # a table of 2^28 entries; in the decoding child it is a reject
            found[bit] = 0
    return found


@pytest.mark.parametrize("edits", [True, False])
def test_a_flipped_bit_in_the_sample_table_of_an_mp4(edits: bool, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", FRAMES, container_options={"use_editlist": str(int(edits))})
    assert len(plan_clips(probe(whole), CONFIG)) == 1
    data = whole.read_bytes()
    at = data.index(b"stts") + 4
    found = _plans(tmp_path / "a.mp4", data, range(at, at + 16))
    assert max(count for count in found.values() if isinstance(count, int)) <= 3
    top = found[8 * (at + 12) + 7]  # the highest bit of how long a sample lasts
    assert isinstance(top, VideoError) and top.reason == "implausible"
    assert "the header says 2.520 s" in top.detail


def test_a_flipped_bit_in_the_rate_of_an_avi(tmp_path: Path) -> None:
    whole = tmp_path / "whole.avi"
    run_ffmpeg("-i", write_video(tmp_path / "whole.mp4", FRAMES), "-c:v", "mpeg4", whole)
    data = whole.read_bytes()
    at = data.index(b"strh") + 8 + 20
    found = _plans(tmp_path / "a.avi", data, range(at, at + 8))
    assert max(count for count in found.values() if isinstance(count, int)) <= 6
    slow = found[8 * (at + 2)]  # one frame lasts 65,537 units for one
    assert isinstance(slow, VideoError) and slow.reason == "implausible"
    assert "63 frames" in slow.detail and "the codec says 25.000 frames per second" in slow.detail


def test_a_flipped_bit_in_the_clock_of_matroska(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mkv"
    run_ffmpeg("-i", write_video(tmp_path / "whole.mp4", FRAMES), "-c", "copy", whole)
    data = whole.read_bytes()
    at = data.index(b"\x2a\xd7\xb1") + 4  # TimestampScale
    found = _plans(tmp_path / "a.mkv", data, range(at, at + 3))
    assert max(count for count in found.values() if isinstance(count, int)) <= 12


def _accepted(frames: int, seconds: float, durations: list[float], **declared: Any) -> bool:
    facts = {"rate": 25.0, "codec_rate": 25.0, "steady": False, **declared}
    reason = ""
    try:
        must_be_plausible(frames, seconds, Declared(durations, **facts), 10_000)
    except VideoError as error:
        reason = error.reason
    assert reason in ("", "implausible")
    return not reason


def test_what_is_plausible() -> None:
    assert _accepted(154, 6.16, [1.2, 1.2]), "a short header"
    assert _accepted(25, 1.0, [3600.0]), "a long one: the file may be cut off"
    assert _accepted(12, 120.0, [120.0, 120.0]), "slides"
    assert _accepted(5, 3000.0, [3000.0], rate=0.0017, codec_rate=0.0), "one every ten minutes, said everywhere"
    assert _accepted(500, 1.0, [1.0], rate=500, codec_rate=500), "a fast camera"
    assert not _accepted(5, 3000.0, [3000.0]), "and 25 a second"
    assert not _accepted(63, 325.0, [2.52])
    assert not _accepted(1, 5.16, [2.52])
    assert not _accepted(63, 0.04, [2.52])
    assert not _accepted(10_001, 400.0, [400.0]), "less than a byte a frame"
    assert not _accepted(63, 252.0, [252.0], rate=0.25, steady=True)


def test_the_clips_of_a_video_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before they are made, unless few of them are kept."""
    facts = StreamFacts(0, "h264", 25.0, 64, 96, 1 << 40, False, float(1 << 40) / 25, 0, False)
    for config in ({"frame_rate": 1000.0}, {"frame_stride": 1}):
        data = DataConfig(root=".", num_frames=1, **config)
        with pytest.raises(VideoError, match="implausible"):
            plan_windows(facts, data)
        with pytest.raises(VideoError, match="implausible"):
            plan_clips(facts, data)
        few = plan_clips(facts, data.model_copy(update={"max_clips_per_video": 3, "pick": "spread"}))
        assert len(few) == 3 and few[-1].end_time == pytest.approx(facts.duration, rel=1e-9)
    monkeypatch.setattr(clips, "MAX_CLIPS", 10)
    facts = facts._replace(frames=11, duration=0.44)
    assert len(plan_clips(facts._replace(frames=10), DataConfig(root=".", num_frames=1))) == 10
    with pytest.raises(VideoError, match="11 clips of 11 frames"):
        plan_clips(facts, DataConfig(root=".", num_frames=1))


def test_the_reason_is_explained() -> None:
    assert "implausible" in REASONS and "implausible" in REMEDIES
