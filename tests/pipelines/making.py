"""A corpus of a few kilobytes, its recipe, and ways to run commands and to compare folders."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from schemas.config import Recipe
from schemas.config.run import load_recipe
from vtok import artefacts
from vtok.datasets.shapes import draw_video, encode_avi
from vtok.files import write_bytes
from vtok.seeds import generator
from vtok.shards.reader import ShardReader
from vtok.tokenizers.vqgan import VQGAN
from vtok.video.ranges import to_model_range
from vtok.weights import write_weights

REPOSITORY = Path(__file__).resolve().parents[2]
SOUND = {"Ball": ("BallBounce", 4), "Slide": ("SquareSlide", 4)}
FRAMES, SIZE = 12, 32
CLIPS_PER_VIDEO = 3
AT_INGEST = {
    "Ball/empty.avi": "empty",
    "Ball/text.avi": "unreadable",
    "Slide/short.avi": "too_short",
}
"""Files that ingest must reject, and why."""
CUT = "Slide/cut.avi"
"""Its headers are sound; its last frames are missing, which only decoding finds out."""


def write_corpus(root: Path) -> Path:
    """Two classes of four sound videos of 12 frames, and the damaged files above."""
    for name, (kind, count) in SOUND.items():
        for number in range(count):
            frames = draw_video(kind, number, size=SIZE, num_frames=FRAMES, seed=0)
            write_bytes(root / name / f"{number}.avi", encode_avi(frames, 8))
    whole = encode_avi(draw_video("SquareSlide", 9, size=SIZE, num_frames=FRAMES, seed=0), 8)
    write_bytes(root / "Ball/empty.avi", b"")
    write_bytes(root / "Ball/text.avi", b"no video at all\n" * 50)
    write_bytes(root / "Slide/short.avi", encode_avi(draw_video("SquareSlide", 8, size=SIZE, num_frames=2, seed=0), 8))
    write_bytes(root / CUT, garbled(whole))
    (root / "notes.txt").write_text("not a video")
    return root


def garbled(avi: bytes) -> bytes:
    """An AVI whose index and headers promise all frames while the second half of its pictures is noise."""
    start = avi.index(b"movi")
    end = avi.rindex(b"idx1")
    middle = (start + end) // 2
    return avi[:middle] + bytes((i * 37 + 11) % 251 for i in range(end - middle)) + avi[end:]


def settings(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The tree of a recipe; small enough to be made in a second a stage."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "out": str(out),
        "data": {"root": str(root), "resolution": 16, "num_frames": 4, "test_fraction": 0.4},
        "shards": {"encoding": "raw", "clips_per_shard": 5},
        "tokenizer": {
            "model": {"embedding_dim": 4, "n_codes": 16, "n_hiddens": 4, "downsample": [2, 4, 4], "norm": "batch"}
        },
        "tokens": {"batch_size": 4},
        "prior": {"model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "condition": "label"}},
        "sample": {"num": 4, "batch_size": 2},
        "cluster": {"workers": 1},
    }
    for dotted, value in changes.items():
        node = tree
        *parents, last = dotted.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def recipe(root: Path, out: Path, **changes: Any) -> Recipe:
    """`settings` as a recipe; `data__num_frames=8` stands for `data.num_frames=8`."""
    return Recipe.model_validate(settings(root, out, **changes))


def write_recipe(path: Path, root: Path, out: Path, **changes: Any) -> Path:
    """`settings` as a file."""
    path.write_text(yaml.safe_dump(settings(root, out, **changes)))
    load_recipe(path)
    return path


def make_tokenizer(made: Recipe) -> None:
    """`tokenizer/` of a run that has shards: no training, but statistics and codebook of the run's own clips."""
    folder, model = made.folder("tokenizer"), made.tokenizer.model
    shards = artefacts.load(made.folder("shards"), "shards")
    plan = artefacts.make_plan("tokenizer", {"model": model.plain()}, {"shards": shards.fingerprint}, [])
    artefacts.begin(folder, plan)
    vqgan = VQGAN(model, generator(0, "vqgan")).train()
    clips = [clip.video_thwc for clip in ShardReader(made.folder("shards"), "train", shuffle=False).clips(0)]
    video_bcthw = torch.from_numpy(to_model_range(np.stack(clips)))
    with torch.no_grad():
        for step in range(30):
            vqgan(video_bcthw, generator(0, "codebook", step))
    digest = write_weights(folder, "tokenizer", vqgan.eval().state_dict(), {"model": model.plain()})
    data = made.data
    facts = {
        "fingerprint": vqgan.fingerprint,
        "codebook_size": model.n_codes,
        "downsample": list(model.downsample),
        "grid": list(vqgan.grid(data.num_frames, data.resolution, data.resolution)),
    }
    artefacts.seal_card(folder, plan, index_sha256=digest, counts={"steps": 0, "bytes": 1}, facts=facts)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, temporary leftovers included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip(path: Path, share: float = 0.5) -> None:
    """Flips one bit of a file, at this share of its length."""
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))


def vtok(*arguments: str | Path, timeout: float = 500, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m vtok ...` in a process of its own, with these environment variables besides."""
    return python("-m", "vtok", *arguments, timeout=timeout, **environment)


def python(*arguments: str | Path, timeout: float = 500, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ...` in a process of its own and in the repository, on one thread; what it says is kept."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
