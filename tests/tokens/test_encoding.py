"""A clip's codes do not depend on its batch: on a GPU all batches have one shape, on the CPU a clip is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from schemas.config.tokenizer import VqganConfig
from tests.tokenizers.making import seasoned
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokens.encoding import ClipEncoder
from vtok.video.ranges import to_model_range

LARGEST = 16
"""Clips in a batch."""
SHAPE = (4, 16, 16, 3)
CONFIG = VqganConfig(n_codes=64, embedding_dim=8, n_hiddens=4, downsample=(2, 4, 4))


@pytest.fixture(scope="module")
def videos() -> np.ndarray:
    """Noise: no two latents are alike, so none lies between two codes."""
    return np.random.default_rng(0).integers(0, 256, (LARGEST, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def tokenizer(videos: np.ndarray) -> VideoAutoencoder:
    return seasoned(CONFIG, torch.from_numpy(to_model_range(videos)))


def encoder_of(tokenizer: VideoAutoencoder, batch_size: int, **options: Any) -> ClipEncoder:
    settings = {"mode": "exact", "device": "cpu", "chunk_frames": None, "audio": tokenizer, **options}
    return ClipEncoder(tokenizer, batch_size=batch_size, **settings)


def test_every_batch_has_one_shape(
    tokenizer: VideoAutoencoder, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU is given, looked at on the CPU; without padding, clips go through one by one."""
    shapes, real = [], tokenizer.encode

    def encode(video_bcthw: torch.Tensor, **options: Any) -> torch.Tensor:
        shapes.append(tuple(video_bcthw.shape))
        assert not video_bcthw[given:].any(), "what fills up is grey"
        return real(video_bcthw, **options)

    monkeypatch.setattr(tokenizer, "encode", encode)
    pictures = list(to_model_range(videos))
    given = LARGEST
    alone = encoder_of(tokenizer, 4).frames(list(videos[:5]))
    assert shapes == [(1, 3, *SHAPE[:3])] * 5
    for batch_size in (1, 4, 5):
        padded = encoder_of(tokenizer, batch_size, pad_on_cpu=True)
        for given in range(1, batch_size + 1):
            shapes.clear()
            codes = padded.frames(list(videos[:given]))
            assert len(codes) == given and np.array_equal(codes, alone[:given])
            sounds = padded.sounds([None, *pictures[:given]])
            assert sounds[0] is None and np.array_equal(sounds[1:], alone[:given])  # type: ignore[arg-type]
            assert shapes == [(batch_size, 3, *SHAPE[:3])] * 2


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize(
    ("device", "sizes"),
    [
        ("cpu", [2, 5]),
        pytest.param("cpu", range(2, LARGEST + 1), marks=pytest.mark.soak),
        pytest.param("cuda", range(2, LARGEST + 1), marks=GPU),
    ],
)
def test_every_place_in_a_batch_gives_a_clip_the_same_codes(
    tokenizer: VideoAutoencoder, videos: np.ndarray, device: str, sizes: list[int]
) -> None:
    encoder_on = tokenizer.to(device)
    try:
        for size in sizes:
            encoder = encoder_of(encoder_on, size, device=device, pad_on_cpu=True)
            wanted = [encoder.frames([video])[0] for video in videos[:size]]
            assert len({codes.tobytes() for codes in wanted}) == size, "one answer for all would prove nothing"
            for turn in range(1, size):
                found = encoder.frames(list(np.roll(videos[:size], turn, axis=0)))
                assert np.array_equal(np.roll(found, -turn, axis=0), wanted), (size, turn)
    finally:
        tokenizer.to("cpu")
