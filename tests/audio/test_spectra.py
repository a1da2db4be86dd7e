"""Spectra lie where the sound does, in time and in frequency, and are scaled and resized as TATS does it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from schemas.config.audio import SpectrumConfig
from schemas.errors import IntegrityError, UsageError
from vtok.audio.clips import check_shards, sound_batch, sound_picture
from vtok.audio.spectra import picture, silence, spectra
from vtok.video.media.audio import wav_bytes

FRAMES, RATE, FPS = 16, 21_120, 30  # 704 samples a frame: 16 steps of half a window
CONFIG = SpectrumConfig()


def _time() -> np.ndarray:
    return np.arange(FRAMES * RATE // FPS) / RATE


def _int16(sound: np.ndarray) -> np.ndarray:
    return np.rint(sound * 32767).astype(np.int16)


def _npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@pytest.mark.parametrize(("bin_number", "amplitude"), [(5, 1.0), (20, 0.1), (40, 0.01)])
def test_a_tone_is_a_line_at_its_frequency_and_level(bin_number: int, amplitude: float) -> None:
    frequency = bin_number * RATE / CONFIG.window
    found = spectra(_int16(amplitude * np.sin(2 * np.pi * frequency * _time())), FRAMES, CONFIG)
    assert found.shape == (FRAMES, 45, 17) and found.dtype == np.float32
    inside = found[1:-1]  # the first and the last window reach into the silence around the sound
    assert (inside.argmax(axis=1) == bin_number).all()
    level = 1 + 20 * np.log10(amplitude) / CONFIG.decibels
    assert np.allclose(inside[:, bin_number], level, atol=0.01)
    assert (inside[:, (bin_number + 22) % 45] < level - 0.4).all()


def test_silence_and_what_is_fainter_than_the_range() -> None:
    assert not spectra(np.zeros(len(_time()), np.int16), FRAMES, CONFIG).any()
    faint = SpectrumConfig(decibels=20.0)
    tone = _int16(0.05 * np.sin(2 * np.pi * 2400 * _time()))
    assert not spectra(tone, FRAMES, faint).any()
    assert spectra(tone, FRAMES, CONFIG).any()
    assert not spectra(np.zeros(0, np.int16), FRAMES, CONFIG).any()


@pytest.mark.parametrize(("frame", "column"), [(0, 0), (3, 8), (15, 16)])
@pytest.mark.parametrize("rate", [RATE, 16_000, 44_100])
def test_a_click_is_heard_in_its_frame(frame: int, column: int, rate: int) -> None:
    samples = np.zeros(round(FRAMES * rate / FPS), np.int16)
    samples[min(round((frame + column / 16) / FPS * rate), len(samples) - 1)] = 32767
    loudness = spectra(samples, FRAMES, CONFIG).sum(axis=1)
    at = np.unravel_index(loudness.argmax(), loudness.shape)
    assert tuple(at) == (frame, column)
    heard = {int(f) for f in np.flatnonzero(loudness.max(axis=1) > 0)}
    assert heard <= {frame - 1, frame, frame + 1}


def test_the_last_window_of_a_frame_is_the_first_of_the_next() -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, len(_time())).astype(np.int16)
    found = spectra(noise, FRAMES, CONFIG)
    assert np.array_equal(found[:-1, :, -1], found[1:, :, 0])
    assert not np.array_equal(found[:-1, :, 0], found[1:, :, 0])


def test_pictures_are_tats_s() -> None:
    given = np.random.default_rng(1).random((FRAMES, 45, 17))  # a pickle of the dataset's
    tats = F.interpolate(torch.tensor(given.astype(np.float32))[None] * 2 - 1, size=(64, 16), mode="bilinear")
    made = picture(given, CONFIG)
    assert made.shape == (1, FRAMES, 64, 16) and made.dtype == np.float32
    assert np.abs(made - tats.numpy()).max() < 1e-6
    assert (silence(2, CONFIG) == picture(np.zeros((2, 45, 17)), CONFIG)).all()


def test_a_view_hears_its_own_frames_only() -> None:
    noise = np.random.default_rng(2).integers(-9000, 9000, len(_time())).astype(np.int16)
    step = len(noise) // FRAMES
    whole = {"audio.wav": wav_bytes(noise, RATE)}
    window = sound_picture(whole, CONFIG, FRAMES, range(4, 8))
    assert window is not None and window.shape == (1, 4, 64, 16)
    assert np.array_equal(window, picture(spectra(noise[4 * step : 8 * step], 4, CONFIG), CONFIG))
    other = noise.copy()
    other[: 4 * step], other[8 * step :] = 0, 0
    assert np.array_equal(window, sound_picture({"audio.wav": wav_bytes(other, RATE)}, CONFIG, FRAMES, range(4, 8)))
    strided = sound_picture(whole, CONFIG, FRAMES, range(0, FRAMES, 4))
    assert strided is not None
    assert np.array_equal(strided, picture(spectra(noise, 4, CONFIG), CONFIG))
    beyond = sound_picture(whole, CONFIG, FRAMES, range(1, FRAMES, 4))  # its last frame lasts longer than the clip
    assert beyond is not None
    padded = np.pad(noise[step:], (0, step))
    assert np.array_equal(beyond, picture(spectra(padded, 4, CONFIG), CONFIG))


def test_given_spectra_are_taken_by_frame() -> None:
    given, stft = np.random.default_rng(3).random((FRAMES, 45, 17)), SpectrumConfig(source="stft")
    extras = {"stft.npy": _npy(given)}
    assert np.array_equal(sound_picture(extras, stft, FRAMES), picture(given, stft))
    assert np.array_equal(sound_picture(extras, stft, FRAMES, range(2, 10, 3)), picture(given[[2, 5, 8]], stft))
    with pytest.raises(UsageError, match="spectra of shape"):
        sound_picture(extras, stft, FRAMES + 1)
    for damaged in (b"no array", b"", extras["stft.npy"][:300]):
        with pytest.raises(IntegrityError, match="cannot be read"):
            sound_picture({"stft.npy": damaged}, stft, FRAMES)


def test_no_sound_is_none_and_silence_in_training() -> None:
    assert sound_picture({}, CONFIG, FRAMES) is None
    assert sound_picture({"stft.npy": b""}, CONFIG, FRAMES) is None
    with pytest.raises(IntegrityError, match="cannot be read"):
        sound_picture({"audio.wav": b"RIFF"}, CONFIG, FRAMES)
    tone = {"audio.wav": wav_bytes(_int16(np.sin(_time() * 9000)), RATE)}
    batch = sound_batch([tone, {}], [{"num_frames": FRAMES}] * 2, CONFIG)
    assert batch.shape == (2, 1, FRAMES, 64, 16)
    assert (batch[1] == -1).all() and batch[0].max() > 0.5


def test_shards_without_sound_are_refused() -> None:
    assert check_shards({"shards": {"audio_rate": 8000}}, CONFIG, "shards") == 8000
    assert check_shards({}, SpectrumConfig(source="stft"), "shards") is None
    with pytest.raises(UsageError, match="keep no sound") as caught:
        check_shards({"shards": {"audio_rate": None}}, CONFIG, "shards")
    assert "audio_rate" in caught.value.hint
