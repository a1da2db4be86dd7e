"""Every file of the hostile corpus: the right frames from both decoders and by both policies, or the right reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from schemas.config.data import DataConfig
from tests.video.hostile import NAMES, SIDE, Hostile, remux, write_hostile
from tests.video.making import numbers, write_video
from vtok.video.clips import ClipSpan, plan_clips
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.probe import StreamFacts, probe
from vtok.video.transforms import resize_crop_uint8

_HUGE = "huge"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hostile]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def _single_frames(case: Hostile) -> list[ClipSpan]:
    return [ClipSpan(i, 1, i / 25, (i + 1) / 25, None, 1) for i in range(len(case.numbers))]


def _clips(case: Hostile, facts: StreamFacts, decoder: Any, policy: Any = "reference") -> list[Any]:
    spans = _single_frames(case)
    found = dict(decode_clips(case.path, facts, spans, resolution=64, decoder=decoder, policy=policy))
    return [found[i] for i in range(len(spans))]


def _plain(case: Hostile, facts: StreamFacts) -> list[np.ndarray]:
    """What FFmpeg's libraries give by themselves, turned as the case says, resized by the reference."""
    with av.open(f"file:{case.path}") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams[facts.stream])]
    upright = np.stack([np.rot90(frame, case.rotation // 90) for frame in frames])
    return list(resize_crop_uint8(upright, 64))


def test_every_case_is_tested(corpus: dict[str, Hostile]) -> None:
    assert sorted(corpus) == sorted(NAMES)
    assert len({case.path for case in corpus.values()}) == len(NAMES) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_facts_or_the_reason(name: str, corpus: dict[str, Hostile]) -> None:
    case = corpus[name]
    if case.reason is not None:
        with pytest.raises(VideoError) as caught:
            probe(case.path)
        assert caught.value.reason == case.reason
        return
    facts = probe(case.path)
    assert facts.frames == len(case.numbers)
    assert (facts.height, facts.width, facts.rotation) == (case.height, case.width, case.rotation)


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
@pytest.mark.parametrize("name", NAMES)
def test_frames(name: str, decoder: Literal["pyav", "ffmpeg"], corpus: dict[str, Hostile]) -> None:
    case = corpus[name]
    if case.reason is not None or name == _HUGE:
        return
    facts = probe(case.path)
    clips = _clips(case, facts, decoder)
    sound = [i for i, clip in enumerate(clips) if not isinstance(clip, VideoError)]
    assert sound == [i for i, number in enumerate(case.numbers) if number is not None]
    assert {clips[i].reason for i in range(len(clips)) if i not in sound} <= {"corrupt", "missing_frames"}
    if case.height == case.width:
        assert [numbers(clips[i])[0] for i in sound] == [case.numbers[i] for i in sound]
    if len(sound) == len(clips):
        for clip, wanted in zip(clips, _plain(case, facts), strict=True):
            assert np.abs(clip[0].astype(int) - wanted).mean() < (1 if "ten_bit" in name else 0.01)


@pytest.mark.parametrize("name", NAMES)
def test_both_decoders_agree_by_both_policies(name: str, corpus: dict[str, Hostile]) -> None:
    case = corpus[name]
    if case.reason is not None or name == _HUGE:
        return
    facts = probe(case.path)
    means = []
    for policy in ("reference", "fast"):
        pairs = zip(_clips(case, facts, "pyav", policy), _clips(case, facts, "ffmpeg", policy), strict=True)
        sound = [(a, b) for a, b in pairs if not isinstance(a, VideoError) and not isinstance(b, VideoError)]
        assert sound
        # Two versions of FFmpeg dither 10 bits differently, and round MPEG-4's transform differently.
        worst = max(np.abs(a.astype(int) - b).mean() for a, b in sound)
        assert worst < (1 if "ten_bit" in name else 0.1)
        means.append(np.stack([a for a, _ in sound]).astype(int))
    assert np.abs(means[0] - means[1]).mean() < 12  # libswscale antialiases; another frame is 60 and more away


def test_a_huge_frame_is_refused_before_it_is_converted(corpus: dict[str, Hostile]) -> None:
    case = corpus[_HUGE]
    facts = probe(case.path)
    for decoder in ("pyav", "ffmpeg"):
        (_, error), *_ = decode_clips(case.path, facts, _single_frames(case), resolution=64, decoder=decoder)
        assert isinstance(error, VideoError) and error.reason == "too_large"


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_by_time_the_frames_are_the_same_ones(decoder: Any, corpus: dict[str, Hostile]) -> None:
    """Where the first frames cannot be had, the others must not move up."""
    case = corpus["headless"]
    facts = probe(case.path)
    spans = [ClipSpan(None, None, start, start + 0.16, 25.0, 4) for start in (0.0, 0.52, 1.0)]
    found = dict(decode_clips(case.path, facts, spans, resolution=SIDE, decoder=decoder))
    assert found[0].reason == "corrupt"
    assert [numbers(found[i]) for i in (1, 2)] == [case.numbers[13:17], case.numbers[25:29]]


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_a_duration_that_lies_costs_the_clips_past_the_end(decoder: Any, corpus: dict[str, Hostile]) -> None:
    case = corpus["wrong_duration"]
    facts = probe(case.path)._replace(duration=12.0)
    spans = plan_clips(facts, DataConfig(root=".", num_frames=5, frame_rate=5))
    found = dict(decode_clips(case.path, facts, spans, resolution=SIDE, decoder=decoder))
    assert len(spans) == 12
    assert numbers(found[0]) == [0, 5, 10, 15, 20]
    assert {found[i].reason for i in range(1, len(spans))} == {"missing_frames"}


def test_a_frame_that_the_decoder_leaves_out_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a stream, by a decoder that says nothing."""
    from vtok.video import reading

    path = write_video(tmp_path / "a.mp4", 30, gop=10, size=(SIDE, SIDE), options={"preset": "veryfast", "bf": "0"})
    decode_packet = reading.Reading._decode

    def forgetful(self: Any, packet: Any, *rest: Any) -> Any:
        return [frame for frame in decode_packet(self, packet, *rest) if frame.pts != 14]

    monkeypatch.setattr(reading.Reading, "_decode", forgetful)
    case = Hostile(path, numbers=range(30))
    clips = _clips(case, probe(path), "pyav")
    bad = [i for i, clip in enumerate(clips) if isinstance(clip, VideoError)]
    assert bad == [14, 15, 16, 17, 18, 19]  # it, and what was predicted from it
    found = dict(decode_clips(path, probe(path), _single_frames(case), resolution=SIDE))
    assert [numbers(found[i])[0] for i in range(30) if i not in bad] == [i for i in range(30) if i not in bad]


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_frames_beyond_the_limit(decoder: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30, size=(SIDE, SIDE))
    spans = [ClipSpan(s, 1, s / 25, (s + 5) / 25, None, 5) for s in (0, 5, 10)]
    found = dict(decode_clips(path, probe(path), spans, resolution=SIDE, decoder=decoder, max_frames=10))
    assert [numbers(found[i])[0] for i in (0, 1)] == [0, 5]
    assert found[2].reason == "too_long"


def test_the_corpus_damages_what_it_says(corpus: dict[str, Hostile], tmp_path: Path) -> None:
    """Without the damage the same way of writing gives a sound file, so that the cases test what they claim."""
    whole = write_video(tmp_path / "whole.mkv", 12, size=(SIDE, SIDE))
    copy = remux(whole, tmp_path / "copy.mkv", lambda _: True)
    assert [numbers(clip)[0] for clip in _clips_of(copy)] == list(range(12))
    with av.open(str(corpus["wrong_duration_mkv"].path)) as container:
        assert container.duration == 12_000_000
    for name in ("wrong_duration", "wrong_duration_mkv"):
        assert probe(corpus[name].path).duration == pytest.approx(1.2)  # and it is not believed


def _clips_of(path: Path) -> list[Any]:
    case = Hostile(path, numbers=range(probe(path).frames))
    found = dict(decode_clips(path, probe(path), _single_frames(case), resolution=SIDE))
    return [found[i] for i in range(len(found))]
