"""The sound of clips lies where the frames are: checked with clicks and tones whose place in time is known."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.reading import make
from tests.video.making import HEIGHT, WIDTH, numbered_frame, pinned_ffmpeg, run_ffmpeg, write_video
from vtok.video.errors import VideoError
from vtok.video.media.audio import read_sound, wav_bytes, wav_samples
from vtok.video.probe import probe

FPS, MILLISECOND = 25, 1e-3
FORMS = [
    ("mp4", "libx264", "aac"),
    ("mov", "mpeg4", "pcm_s16le"),
    ("mkv", "libx264", "libopus"),
    ("mkv", "libx264", "flac"),
    ("avi", "mpeg4", "pcm_s16le"),
    ("webm", "libvpx", "libopus"),
]


def write_film(
    path: Path,
    sound: np.ndarray,
    rate: int,
    *,
    frames: int = 50,
    video: str = "libx264",
    audio: str = "pcm_s16le",
    audio_at: float = 0.0,
    gap: tuple[float, float] | None = None,
) -> Path:
    """Numbered frames with a mono sound, -1..1, that begins at `audio_at` seconds and has no packets within `gap`."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(video, rate=FPS)
        pictures.height, pictures.width, pictures.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        pictures.codec_context.thread_count = 1
        heard = container.add_stream(audio, rate=rate, layout="mono")
        form = heard.codec_context.codec.audio_formats[0].name
        packets = []
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            packets += pictures.encode(picture)
        packets += pictures.encode()
        resampler = av.AudioResampler(format=form, layout="mono", rate=rate, frame_size=heard.codec_context.frame_size)
        for start in range(0, len(sound), 1024):
            seconds = start / rate
            if gap is not None and gap[0] <= seconds < gap[1]:
                continue
            block = av.AudioFrame.from_ndarray(
                np.rint(sound[None, start : start + 1024] * 32767).astype(np.int16), format="s16", layout="mono"
            )
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = start + round(audio_at * rate)
            if gap is not None:  # nothing may be filled in or held back over a gap
                packets += heard.encode(block)
                continue
            for piece in resampler.resample(block):
                packets += heard.encode(piece)
        if gap is None:
            for piece in resampler.resample(None):
                packets += heard.encode(piece)
        packets += heard.encode()
        container.mux(sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)))
    return path


def clicks(rate: int, seconds: float, at: list[float]) -> np.ndarray:
    """Silence with short bursts of 2 ms around the given times."""
    time = np.arange(round(seconds * rate)) / rate
    sound = np.zeros(len(time))
    for centre in at:
        sound += 0.8 * np.exp(-(((time - centre) / 5e-4) ** 2))
    return sound


def centre(samples: np.ndarray, rate: int) -> float:
    """When the burst is, seconds from the first sample: the middle of its energy."""
    energy = samples.astype(float) ** 2
    energy[energy < 0.1 * energy.max()] = 0
    return float((energy * np.arange(len(samples))).sum() / energy.sum() / rate)


@pytest.mark.parametrize(("container", "video", "audio"), FORMS)
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_click_at_a_frame_is_at_that_frame_in_its_clip(
    container: str, video: str, audio: str, rate: int, tmp_path: Path
) -> None:
    """Clicks in the middle of frames 5, 13, ...: one in each clip of 8 frames, 5.5 frames after its start."""
    places = [(8 * clip + 5.5) / FPS for clip in range(6)]
    sound = clicks(48_000, 2.0, places)
    path = write_film(tmp_path / f"a.{container}", sound, 48_000, video=video, audio=audio)
    facts = probe(path)
    assert facts.has_audio
    spans = [(8 * clip / FPS, 8 * (clip + 1) / FPS) for clip in range(6)]
    for heard in read_sound(path, facts.stream, spans, rate):
        assert heard is not None and heard.dtype == np.int16 and len(heard) == round(8 / FPS * rate)
        assert centre(heard, rate) == pytest.approx(5.5 / FPS, abs=MILLISECOND)
        assert np.abs(heard).max() > 3000


def test_mp3_in_avi_is_as_late_as_ffmpeg_plays_it(tmp_path: Path) -> None:
    """An AVI cannot say how much its encoder delayed the sound (23 ms here), so nobody can take it back."""
    path = write_film(tmp_path / "a.avi", clicks(48_000, 2.0, [1.0]), 48_000, video="mpeg4", audio="libmp3lame")
    command = [pinned_ffmpeg(), "-v", "error", "-i", str(path), "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    played = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2")
    (heard,) = read_sound(path, probe(path).stream, [(0.0, 2.0)], 16_000)
    assert heard is not None
    assert centre(heard, 16_000) == pytest.approx(centre(played, 16_000), abs=MILLISECOND)
    assert centre(heard, 16_000) == pytest.approx(1.0, abs=0.03)


def test_pitch_and_loudness_are_kept(tmp_path: Path) -> None:
    """Each second has a tone of its own; resampling changes neither its pitch nor its strength."""
    time = np.arange(2 * 44_100) / 44_100
    sound = 0.5 * np.sin(2 * np.pi * np.where(time < 1, 440.0, 1000.0) * time)
    path = write_film(tmp_path / "a.mkv", sound, 44_100)
    found = read_sound(path, probe(path).stream, [(0.2, 0.8), (1.2, 1.8)], 16_000)
    for heard, pitch in zip(found, (440, 1000), strict=True):
        assert heard is not None
        spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
        assert np.argmax(spectrum) * 16_000 / len(heard) == pytest.approx(pitch, abs=2)
        assert np.abs(heard).max() == pytest.approx(0.5 * 32767, rel=0.02)


def test_the_last_samples_are_not_lost(tmp_path: Path) -> None:
    """What a resampler holds back at the end belongs to the last clip."""
    path = write_film(tmp_path / "a.mkv", np.full(2 * 48_000, 0.5), 48_000)
    (heard,) = read_sound(path, probe(path).stream, [(1.5, 2.0)], 16_000)
    assert heard is not None and len(heard) == 8000
    np.testing.assert_allclose(heard[:7900], 0.5 * 32767, atol=2)
    assert np.count_nonzero(heard) == 8000


def test_silence_where_there_is_no_sound(tmp_path: Path) -> None:
    """The sound begins at 0.4 s and ends at 1.2 s; the video runs from 0 to 2 s."""
    sound = np.full(round(0.8 * 48_000), 0.5)
    path = write_film(tmp_path / "a.mkv", sound, 48_000, audio_at=0.4)
    spans = [(0.0, 0.3), (0.2, 0.6), (0.6, 1.0), (1.0, 1.4), (1.4, 2.0)]
    before, early, middle, late, after = read_sound(path, probe(path).stream, spans, 16_000)
    assert before is None and after is None
    assert early is not None and middle is not None and late is not None
    assert np.count_nonzero(early[: round(0.198 * 16_000)]) == 0 and np.abs(early[round(0.205 * 16_000) :]).min() > 9000
    assert np.abs(middle).min() > 9000
    assert np.abs(late[: round(0.195 * 16_000)]).min() > 9000 and np.count_nonzero(late[round(0.205 * 16_000) :]) == 0


def test_a_hole_in_the_sound_moves_nothing(tmp_path: Path) -> None:
    places = [0.22, 0.62, 1.42, 1.82]
    path = write_film(tmp_path / "a.mkv", clicks(48_000, 2.0, places), 48_000, gap=(0.8, 1.2))
    spans = [(place - 0.1, place + 0.1) for place in places]
    for heard in read_sound(path, probe(path).stream, spans, 16_000):
        assert heard is not None
        assert centre(heard, 16_000) == pytest.approx(0.1, abs=MILLISECOND)
    (hole,) = read_sound(path, probe(path).stream, [(0.85, 1.15)], 16_000)
    assert hole is None


def test_overlapping_clips_hear_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 48_000)
    path = write_film(tmp_path / "a.mkv", random, 48_000)
    first, second = read_sound(path, probe(path).stream, [(0.0, 1.0), (0.5, 1.5)], 48_000)
    assert first is not None and second is not None
    np.testing.assert_array_equal(first[24_000:], second[:24_000])
    np.testing.assert_allclose(first, np.rint(random[:48_000] * 32767), atol=1)


def test_shards_keep_the_sound_of_each_clip(tmp_path: Path) -> None:
    """Through ingest's and shard's workers: with and without sound, and for parts of videos in any order."""
    (tmp_path / "train").mkdir()
    places = [(8 * clip + 5.5) / FPS for clip in range(6)]
    write_film(tmp_path / "train" / "loud.mp4", clicks(48_000, 2.0, places), 48_000, audio="aac")
    write_video(tmp_path / "train" / "silent.mp4", 50)
    made = make(tmp_path, "folder", audio_rate=16_000, num_frames=8, resolution=64)
    assert made.rejects == [] and [len(clips) for clips in made.clips.values()] == [6, 6]
    for clip in made.clips["train/loud.mp4"]:
        assert clip.row["has_audio"] and set(clip.extras) == {"audio"}
        assert len(clip.extras["audio"]) == round(8 / FPS * 16_000)
        assert centre(clip.extras["audio"], 16_000) == pytest.approx(5.5 / FPS, abs=MILLISECOND)
    assert [clip.extras for clip in made.clips["train/silent.mp4"]] == [{}] * 6
    without = make(tmp_path, "folder", num_frames=8, resolution=64)
    assert all(clip.extras == {} for clips in without.clips.values() for clip in clips)


def test_sound_that_cannot_be_had(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    with pytest.raises(VideoError) as caught:
        read_sound(path, 0, [(0.0, 0.4)], 16_000)
    assert caught.value.reason == "corrupt"


def test_wav_files() -> None:
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    np.testing.assert_array_equal(wav_samples(wav_bytes(samples, 16_000)), samples)
    for damaged in (b"", b"RIFF", wav_bytes(samples, 16_000)[:20]):
        with pytest.raises(ValueError, match="sound"):
            wav_samples(damaged)


PLACES = [(8 * clip + 5.5) / FPS for clip in range(6)]
SPANS = [(8 * clip / FPS, 8 * (clip + 1) / FPS) for clip in range(6)]


def _film(path: Path, places: list[float] = PLACES, audio: str = "aac") -> Path:
    return write_film(path, clicks(48_000, 2.0, places), 48_000, audio=audio)


@pytest.mark.parametrize("offset", [2**33 / 90_000 - 30, 2**33 / 90_000 - 1, 0, 7.5])
def test_the_sound_of_a_transport_stream_that_begins_before_the_wrap(offset: float, tmp_path: Path) -> None:
    plain, path = _film(tmp_path / "plain.mp4"), tmp_path / "a.ts"
    run_ffmpeg("-i", plain, "-c", "copy", "-muxdelay", 0, "-output_ts_offset", offset, path)
    for heard in read_sound(path, probe(path).stream, SPANS, 16_000):
        assert isinstance(heard, np.ndarray)
        assert centre(heard, 16_000) == pytest.approx(5.5 / FPS, abs=MILLISECOND)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_the_sound_of_a_film_that_is_cut_off_in_front(name: str, tmp_path: Path) -> None:
    """By an edit list that begins inside a frame: the clicks stay where their frames are.

    FFmpeg's MP4 reader moves the first whole frame to the beginning of the edit, up to a frame too early for the sound.
    """
    plain, path = _film(tmp_path / "plain.mp4"), tmp_path / name
    run_ffmpeg("-ss", "0.61", "-i", plain, "-c", "copy", path)
    facts = probe(path)
    places = [place - (50 - facts.frames) / FPS for place in PLACES]
    spans = [(place - 0.1, place + 0.1) for place in places if place > 0.1]
    for heard in read_sound(path, facts.stream, spans, 16_000):
        assert isinstance(heard, np.ndarray)
        assert centre(heard, 16_000) == pytest.approx(0.1, abs=0.003 if name == "a.mkv" else 1 / FPS)


def test_the_sound_of_transport_streams_joined_with_cat(tmp_path: Path) -> None:
    """Each piece's sound goes with its pictures; the second one's clicks lie elsewhere. A silent third piece."""
    others = [(8 * clip + 2.5) / FPS for clip in range(6)]
    data = b""
    for number, places in enumerate((PLACES, others)):
        piece = tmp_path / f"{number}.ts"
        run_ffmpeg("-i", _film(tmp_path / f"{number}.mp4", places), "-c", "copy", "-muxdelay", 0, piece)
        data += piece.read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(data)
    facts = probe(path)
    assert len(facts.segments) == 2
    second = facts.segments[1].start
    spans = [*SPANS[:5], *((start + second, end + second) for start, end in SPANS)]
    heard = read_sound(path, facts.stream, spans, 16_000)
    for number, sound in enumerate(heard):
        assert isinstance(sound, np.ndarray)
        assert centre(sound, 16_000) == pytest.approx((5.5 if number < 5 else 2.5) / FPS, abs=MILLISECOND)


def test_damaged_sound_spoils_its_own_clips_only(tmp_path: Path) -> None:
    path = _film(tmp_path / "a.mkv", audio="flac")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        places = [(float(p.pts * p.time_base), p.pos, p.size) for p in container.demux(stream) if p.pts is not None]
    data = bytearray(path.read_bytes())
    seconds, at, size = next(place for place in places if place[0] > 0.8)
    at = data.index(b"\xff\xf8", at)  # a frame of FLAC begins so
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    heard = read_sound(path, probe(path).stream, SPANS, 16_000)
    spoilt = [number for number, sound in enumerate(heard) if isinstance(sound, VideoError)]
    assert spoilt == [int(seconds / (8 / FPS))]
    for number, sound in enumerate(heard):
        if number not in spoilt:
            assert isinstance(sound, np.ndarray)
            assert centre(sound, 16_000) == pytest.approx(5.5 / FPS, abs=MILLISECOND)
