"""A small finished folder of shards, made without the pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.card import CARD_NAME, with_checksum
from schemas.clips import CLIPS
from schemas.config.data import ShardsConfig
from schemas.shards import MANIFEST_NAME
from vtok import artefacts
from vtok.artefacts import Part
from vtok.files import write_json, write_table
from vtok.sealed import seal_files
from vtok.shards.codec import encode_clip
from vtok.shards.writer import write_shard


def clip_name(number: int) -> str:
    return f"v_Ball_g01-f{number:06d}-0123456789"


def frames_of(number: int, count: int = 4, size: int = 16) -> np.ndarray:
    """Smooth frames that differ from clip to clip."""
    y, x, t = np.meshgrid(np.arange(size), np.arange(size), np.arange(count), indexing="ij")
    frames = np.stack([x * 9 + number, y * 9 + number * 3, t * 20 + 0 * x], -1).astype(np.uint8)
    return np.ascontiguousarray(frames.transpose(2, 0, 1, 3))


def samples(
    numbers: range, config: ShardsConfig, extras: dict[str, bytes] | None = None
) -> list[tuple[str, dict[str, bytes]]]:
    out = []
    for number in numbers:
        meta = {"clip_id": clip_name(number), "label": number % 3, "class_name": f"c{number % 3}", "number": number}
        data = {"json": json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()}
        out.append((clip_name(number), {**data, **encode_clip(frames_of(number), config, 8.0), **(extras or {})}))
    return out


def make_shards(
    folder: Path, sizes: dict[str, list[int]], encoding: Any = "raw", extras: dict[str, bytes] | None = None
) -> Path:
    """Clips are numbered through over all shards of all splits; `extras` are further members of every sample."""
    config = ShardsConfig(encoding=encoding)
    names = [f"{split}-{i:05d}.tar" for split, counts in sizes.items() for i in range(len(counts))]
    settings = {"shards": config.plain(), "resolution": 16, "num_frames": 4, "seed": 0}
    plan = artefacts.make_plan("shards", settings, {"clips": "0" * 64}, names)
    artefacts.begin(folder, plan)
    parts, number = [], 0
    for split, counts in sizes.items():
        for i, count in enumerate(counts):
            path = folder / f"{split}-{i:05d}.tar"
            footer = {"plan": plan.fingerprint, "split": split, "rows": count, "sources": {}, "rejects": []}
            numbers = range(number, number + count)
            size, digest = write_shard(path, samples(numbers, config, extras), footer, point=f"shards:{path.name}")
            parts.append(Part(path.name, split, count, size, digest))
            number += count
    artefacts.seal(folder, plan, parts, counts={"clips": number}, facts={"classes": ["c0", "c1", "c2"]})
    return folder


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Another manifest under a card that seals it."""
    write_table(folder / MANIFEST_NAME, pa.Table.from_pylist(rows, schema=CLIPS))
    card = artefacts.read_card(folder)
    again = card.model_copy(update={"files": seal_files(folder, "shards")})
    write_json(folder / CARD_NAME, with_checksum(again.model_dump(mode="json")))
