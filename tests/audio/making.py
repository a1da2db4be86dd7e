"""Videos with sound: moving shapes that beat a drum at known frames over a tone of their own."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from schemas.config import Recipe
from tests.pipelines.making import recipe
from vtok.datasets.shapes import draw_video, encode_avi
from vtok.files import write_bytes

FPS, FRAMES, RATE = 8, 12, 4000
VIDEOS = 8
SILENT = "Ball/silent.avi"
"""A video without a sound track; every clip of it has no sound."""
SPECTRUM = {"window": 32, "columns": 9, "decibels": 60.0, "height": 16, "width": 8}
MODEL = {"embedding_dim": 8, "n_codes": 32, "n_hiddens": 8, "downsample": [2, 4, 4], "image_channels": 1}


def drum_and_tone(number: int, seconds: float = FRAMES / FPS, rate: int = RATE) -> np.ndarray:
    """int16: a tone of one of ten pitches, and noise that fades away from every third frame on."""
    random = np.random.default_rng(number)
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.2 * np.sin(2 * np.pi * (300 + 150 * (number % 10)) * time)
    for start in np.arange(number % 3, FRAMES, 3) / FPS:
        since = np.maximum(time - start, 0)
        sound += (time >= start) * 0.5 * np.exp(-since * 30) * random.uniform(-1, 1, len(time))
    return np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)


def film(frames_thwc: np.ndarray, samples: np.ndarray, rate: int = RATE) -> bytes:
    """MPEG-4 with uncompressed sound in AVI."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="avi") as container:
        pictures = container.add_stream("mpeg4", rate=FPS)
        pictures.height, pictures.width = frames_thwc.shape[1:3]
        pictures.pix_fmt = "yuv420p"
        pictures.codec_context.thread_count = 1
        heard = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        packets = []
        for frame in frames_thwc:
            packets += pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
        packets += pictures.encode()
        block = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), 0
        packets += [*heard.encode(block), *heard.encode()]
        container.mux(packets)
    return sink.getvalue()


def write_videos(root: Path, count: int = VIDEOS) -> Path:
    """So many videos of 12 frames with sound in two classes, and `SILENT`."""
    for number in range(count):
        kind = ("BallBounce", "SquareSlide")[number % 2]
        frames = draw_video(kind, number, size=32, num_frames=FRAMES, seed=0)
        write_bytes(root / f"{kind[:4]}/{number}.avi", film(frames, drum_and_tone(number)))
    write_bytes(root / SILENT, encode_avi(draw_video("BallBounce", 99, size=32, num_frames=FRAMES, seed=0), FPS))
    return root


def sound_recipe(root: Path, run: Path, *, steps: int) -> Recipe:
    """A tokenizer of sound for the run `run`, in `run-sound`."""
    train = {
        "engine": "plain",
        "steps": steps,
        "batch_size": 8,
        "threads": 1,
        "log_every": 20,
        "validate_every": steps,
        "validate_clips": 8,
        "checkpoint_every": steps,
        "preview_clips": 2,
        "generator": {"optimizer": "adam", "lr": 2e-3, "betas": [0.9, 0.99], "weight_decay": 0.0},
    }
    weights = {"image_gan_weight": 0.0, "video_gan_weight": 0.0, "gan_feature_weight": 0.0}
    tree = {
        "spectrum": SPECTRUM,
        "model": {**MODEL, "ema_decay": 0.9},
        "loss": {"l1_weight": 1.0, "l2_weight": 4.0, **weights},
        "train": train,
    }
    return recipe(root, run.with_name(run.name + "-sound"), data_run=str(run), tokenizer=tree)


def film_recipe(root: Path, run: Path, **changes: Any) -> Recipe:
    """The run whose shards have sound, and whose tokens have its codes."""
    model = {"condition": "audio", "condition_length": 16, "condition_vocabulary": 32, "n_layer": 1, "n_head": 1}
    optim = {"lr": 1e-2}
    train = {"engine": "plain", "steps": 4, "batch_size": 4, "threads": 1, "validate_every": 4, "validate_clips": 4}
    prior = {"model": {**model, "n_embd": 8}, "train": {**train, "checkpoint_every": 4, "optim": optim}}
    sound = {"tokenizer": str(run.with_name(run.name + "-sound")), "silent": "reject"}
    return recipe(root, run, **{"shards__audio_rate": RATE, "tokens__audio": sound, "prior": prior, **changes})
