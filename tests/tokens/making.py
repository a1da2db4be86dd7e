"""A small finished token store, made without the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtok import artefacts
from vtok.artefacts import Part
from vtok.tokens.parts import write_tokens

GRID = (2, 2, 3)
TOKENIZER = "a" * 64


def codes_of_clip(number: int, codebook_size: int, grid: tuple[int, int, int] = GRID) -> np.ndarray:
    """Codes that differ from clip to clip; the first one is the largest that the codebook has."""
    codes = np.random.default_rng(number).integers(0, codebook_size, int(np.prod(grid)))
    codes[0] = codebook_size - 1
    return codes


def token_row(number: int, split: str, codebook_size: int, grid: tuple[int, int, int] = GRID) -> dict[str, Any]:
    t, h, w = grid
    return {
        "clip_id": f"clip-{number:04d}",
        "view_id": "whole",
        "codes": codes_of_clip(number, codebook_size, grid),
        "grid_t": t,
        "grid_h": h,
        "grid_w": w,
        "num_frames": 4 * t,
        "height": 8 * h,
        "width": 8 * w,
        "flip": False,
        "fps": 8.0,
        "start_time": 0.5 * number,
        "end_time": 0.5 * number + 0.5,
        "split": split,
        "label": number if split == "train" else None,
        "class_name": f"c{number % 3}",
        "caption": None,
        "source": f"c{number % 3}/{number}.avi",
        "source_sha256": f"{number:064x}",
        "decoder": "pyav 1.2.3",
        "shard": f"{split}-00000.tar",
        "windowed_from": None,
        "cond_frames": None,
        "audio_codes": None,
    }


def make_store(
    folder: Path,
    sizes: dict[str, list[int]],
    *,
    codebook_size: int = 64,
    tokenizer: str = TOKENIZER,
    row_group_rows: int = 4,
    grid: tuple[int, int, int] = GRID,
    audio_codebook_size: int = 0,
) -> Path:
    """Clips are numbered through over all parts of all splits; a train clip's label is its number."""
    names = [f"{split}-{i:05d}.parquet" for split, counts in sizes.items() for i in range(len(counts))]
    inputs = {"shards": "0" * 64, "tokenizer": tokenizer}
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, inputs, names)
    artefacts.begin(folder, plan)
    parts: list[Part] = []
    number = 0
    for split, counts in sizes.items():
        for i, count in enumerate(counts):
            rows = [token_row(n, split, codebook_size, grid) for n in range(number, number + count)]
            number += count
            parts.append(
                write_tokens(
                    folder / f"{split}-{i:05d}.parquet",
                    rows,
                    tokenizer=tokenizer,
                    codebook_size=codebook_size,
                    grid=grid,
                    plan=plan.fingerprint,
                    split=split,
                    rejects=[],
                    row_group_rows=row_group_rows,
                    point="",
                    audio_codebook_size=audio_codebook_size,
                )
            )
    facts = {
        "tokenizer": tokenizer,
        "codebook_size": codebook_size,
        "grid": list(grid),
        "mode": "exact",
        "classes": ["c0", "c1", "c2"],
        "audio_codebook_size": audio_codebook_size,
    }
    counts_of = {"clips": number, "tokens": number * int(np.prod(grid)), "parts": len(parts)}
    artefacts.seal(folder, plan, parts, counts=counts_of, facts=facts)
    return folder
