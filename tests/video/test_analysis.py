"""Drawn videos of which every cut, still, black stretch and bar is known."""

from __future__ import annotations

import itertools
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from schemas.config.data import DataConfig
from tests.video.making import pinned_ffmpeg, write_video
from vtok.video.analysis import Analysis, analyse, judge, pack, shots, unpack
from vtok.video.child import DecodeChild
from vtok.video.clips import ClipSpan, plan_clips
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.media import open_item
from vtok.video.probe import probe

HEIGHT, WIDTH = 72, 96


def moving(count: int, level: int, *, step: int = 2, grain: int = 0) -> np.ndarray:
    """A soft pattern around a grey level; `step` pixels a frame to the right."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = [level + 30 * np.sin((x - step * t) / 6.0) * np.cos(y / 9.0) for t in range(count)]
    noise = np.random.default_rng(0).integers(-grain, grain + 1, (count, HEIGHT, WIDTH)) if grain else 0
    return np.repeat((np.stack(frames) + noise).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def still(count: int, level: int) -> np.ndarray:
    return np.repeat(moving(1, level), count, axis=0)


def black(count: int) -> np.ndarray:
    return np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)


def write(path: Path, *scenes: np.ndarray, stamps: list[int] | None = None, rate: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000 if stamps else rate)
        stream.height, stream.width, stream.pix_fmt = *scenes[0].shape[1:3], "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "16"}
        stream.codec_context.thread_count = 1
        if stamps:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(np.concatenate(scenes)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def look(path: Path, *, bars: bool = False, **source: Any) -> Analysis:
    with open_item(source, path) as opened:
        facts = opened.sequence.facts if opened.sequence else probe(path)
        return analyse(opened, facts, bars=bars)


def config(**changes: Any) -> DataConfig:
    return DataConfig(root=".", num_frames=8, **changes)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots, of 20, 30 and 15 frames, at 25 frames per second."""
    return write(tmp_path_factory.mktemp("cut") / "cut.mp4", moving(20, 60), moving(30, 200), moving(15, 110))


def test_cuts_are_found_where_they_are(cut: Path) -> None:
    analysis, facts = look(cut), probe(cut)
    found = shots(analysis, 10.0, facts)
    assert [(shot.first, shot.end) for shot in found] == [(0, 20), (20, 50), (50, 65)]
    assert found[0].start == 0 and found[-1].stop == facts.duration
    for before, after in itertools.pairwise(found):
        assert before.stop < after.start == pytest.approx(after.first / 25, abs=1e-4)
    assert len(analysis.seconds) == 65 and analysis.motion[0] == 0
    assert analysis.score[[20, 50]].min() > 20 > 3 > np.delete(analysis.score, [20, 50]).max()


@pytest.mark.parametrize("sampling", [{}, {"frame_stride": 2}, {"frame_rate": 12.5}, {"frame_rate": 24.0}])
def test_no_clip_straddles_a_cut(cut: Path, sampling: dict[str, Any]) -> None:
    facts = probe(cut)
    settings = DataConfig(root=".", num_frames=5, clip_stride=1, **sampling)
    spans = plan_clips(facts, settings, None, shots(look(cut), 10.0, facts))
    assert len(spans) >= 20
    for _, clip in decode_clips(cut, facts, spans, resolution=32):
        assert isinstance(clip, np.ndarray)
        means = clip.mean(axis=(1, 2, 3))
        assert np.ptp(means) < 25, "shots differ by 50 and more"


def test_cuts_by_time_stamps(tmp_path: Path) -> None:
    """Variable frame rate: the first shot's frames are shown four times as long."""
    stamps = [t * 80 for t in range(20)] + [1600 + t * 20 for t in range(40)]
    path = write(tmp_path / "vfr.mkv", moving(20, 60), moving(40, 200), stamps=stamps)
    facts = probe(path)
    found = shots(look(path), 10.0, facts)
    assert [(s.first, s.end) for s in found] == [(0, 20), (20, 60)]
    assert found[1].start == pytest.approx(1.6, abs=0.002)
    spans = plan_clips(facts, DataConfig(root=".", num_frames=4, frame_rate=10.0), None, found)
    for _, clip in decode_clips(path, facts, spans, resolution=32):
        assert isinstance(clip, np.ndarray) and np.ptp(clip.mean(axis=(1, 2, 3))) < 25


def test_motion(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(16, 120), still(16, 120))
    analysis = look(path)
    moves, rests = ClipSpan(0, 1, 0, 0.32, None, 8), ClipSpan(20, 1, 0.8, 1.12, None, 8)
    assert judge(moves, analysis, config(min_motion=0.5)) is None
    verdict = judge(rests, analysis, config(min_motion=0.5))
    assert verdict is not None and verdict[0] == "still"
    assert verdict[1].startswith("motion 0.0") and verdict[1].endswith("data.min_motion is 0.5")
    timed = ClipSpan(None, None, 0.8, 1.12, 25.0, 8)
    assert judge(timed, analysis, config(min_motion=0.5)) == verdict, "by rate, the same frames"
    assert judge(rests, analysis, config(min_motion=0.0)) is None


def test_score_and_motion_are_those_of_the_ffmpeg_program(cut: Path) -> None:
    scale = "scale=64:64:flags=area+accurate_rnd+full_chroma_int+bitexact:out_range=full,format=gray"
    command = [pinned_ffmpeg(), "-nostdin", "-v", "error", "-i", str(cut)]
    command += ["-vf", f"{scale},scdet=threshold=100,metadata=print:file=-", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = look(cut)
    for name, values in (("score", found.score), ("mafd", found.motion)):
        wanted = [float(line.partition("=")[2]) for line in said.splitlines() if line.startswith(f"lavfi.scd.{name}=")]
        # To the last digit with the program's own libswscale; an older one shrinks a frame a little otherwise.
        np.testing.assert_allclose(values, wanted, atol=0.02)


def test_black(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(12, 120), black(12))
    analysis = look(path)
    assert analysis.black.tolist() == [0.0] * 12 + [1.0] * 12
    half = ClipSpan(8, 1, 0.32, 0.64, None, 8)
    assert judge(half, analysis, config(max_black=0.5)) is None
    assert judge(half, analysis, config(max_black=0.4)) == ("black", "4 of 8 frames are black, data.max_black is 0.4")
    assert judge(half._replace(start_frame=14), analysis, config(max_black=0.9, min_motion=5.0)) == (
        "black",
        "8 of 8 frames are black, data.max_black is 0.9",
    ), "black comes first: it explains the stillness"


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((0, 12, 96, 60), (0, 12, 96, 60)),
        ((16, 0, 80, 72), (16, 0, 80, 72)),
        ((16, 10, 80, 62), (16, 10, 80, 62)),
        ((0, 12, 96, 61), (0, 12, 96, 61)),
        ((0, 0, 96, 72), None),
        ((24, 0, 96, 72), None),
        ((1, 0, 96, 72), None),
    ],
)
def test_bars(tmp_path: Path, box: tuple[int, ...], found: tuple[int, ...] | None) -> None:
    left, top, right, bottom = box
    frames = black(10)
    frames[:, top:bottom, left:right] = moving(10, 150)[:, top:bottom, left:right]
    path = write(tmp_path / "a.mp4", black(4), frames)
    assert look(path, bars=True).picture == found
    assert look(path).picture is None


def test_nothing_but_black_has_no_bars(tmp_path: Path) -> None:
    assert look(write(tmp_path / "a.mp4", black(6)), bars=True).picture is None


@pytest.mark.parametrize("turns", range(4))
def test_bars_of_a_turned_video_are_given_upright(tmp_path: Path, turns: int) -> None:
    frames = black(6)
    frames[:, 12:60, 20:77] = moving(6, 150)[:, 12:60, 20:77]
    path = write(tmp_path / "a.mp4", frames)
    with open_item({}, path) as opened:
        picture = analyse(opened, probe(path)._replace(rotation=90 * turns), bars=True).picture
    assert picture is not None
    left, top, right, bottom = picture
    upright = np.rot90(frames[0], turns)
    assert (upright[top:bottom, left:right] > 60).all()
    assert (right - left) * (bottom - top) == 48 * 57


def test_a_sequence_of_images_is_looked_at_like_a_video(tmp_path: Path) -> None:
    for number, image in enumerate(np.concatenate([moving(9, 60), moving(7, 200)])):
        Image.fromarray(image).save(tmp_path / f"{number:03d}.png")
    with open_item({"medium": "frames", "source_fps": 10.0}, tmp_path) as opened:
        assert opened.sequence is not None
        analysis = analyse(opened, opened.sequence.facts, bars=True)
        assert [(s.first, s.end) for s in shots(analysis, 10.0, opened.sequence.facts)] == [(0, 9), (9, 16)]
    assert analysis.seconds.tolist() == [i / 10.0 for i in range(16)]


def test_cuts_behind_damage_are_found(tmp_path: Path) -> None:
    """Clips behind a damaged packet are had, so they are judged, too; frames keep their numbers."""
    path = write_video(tmp_path / "a.mp4", 60, gop=10, size=(96, 96), options={"preset": "veryfast", "bf": "0"})
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][33]
    data = bytearray(path.read_bytes())
    place = data.index(packet)
    data[place : place + len(packet)] = b"\x55" * len(packet)
    path.write_bytes(data)
    found = look(path)
    assert len(found.seconds) == 60
    assert set(found.motion[33:40]) == {0.0}  # from the damaged packet to the next key frame
    assert (found.motion[41:] > 0).all()  # the number in the frames changes from frame to frame


def test_a_damaged_end_is_left_to_the_decoding_pass(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 60, codec="mpeg4", gop=4)
    facts = probe(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    analysis = look(path)
    assert 10 < len(analysis.seconds) < 60
    whole = shots(analysis, 99.0, facts)
    assert [(s.first, s.end) for s in whole] == [(0, 60)]
    assert judge(ClipSpan(52, 1, 2.08, 2.4, None, 8), analysis, config(min_motion=50.0, max_black=0.0)) is None


def test_in_the_child(cut: Path) -> None:
    here, size = look(cut, bars=True), cut.stat().st_size
    with DecodeChild() as child:
        there = child.analyse(str(cut), probe(cut), size=size, bars=True, cpu_seconds=30.0, source={})
    for mine, its in zip(here, there, strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize(("what", "reason"), [("spin", "timeout"), ("eat", "memory"), ("segfault", "crashed")])
def test_a_video_that_misbehaves_costs_a_reject(cut: Path, what: str, reason: str) -> None:
    with DecodeChild(max_memory_mb=1024, module="tests.video.misbehaving") as bad:
        with pytest.raises(VideoError) as caught:
            bad.analyse(f"/nowhere/{what}", probe(cut), size=1, bars=False, cpu_seconds=0.2, source={})
        assert caught.value.reason == reason
        assert len(bad.analyse(str(cut), probe(cut), size=1, bars=False, cpu_seconds=30.0, source={}).seconds) == 65


def test_packing() -> None:
    whole = Analysis(*(np.arange(3.0) + i for i in range(4)), picture=(1, 2, 3, 4))  # type: ignore[misc]
    header, data = pack(whole)
    assert header["bytes"] == len(data)
    back = unpack(header, data)
    assert back.picture == whole.picture
    np.testing.assert_array_equal(np.stack(back[:4]), np.stack(whole[:4]))
    header, data = pack(Analysis(*[np.zeros(0)] * 4, picture=None))  # type: ignore[misc]
    assert unpack(header, data).picture is None
