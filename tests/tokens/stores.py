"""Token stores of any rows, sealed, for what looks into stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.card import MADE_WITH
from tests.tokens.making import GRID, TOKENIZER, token_row
from vtok import artefacts
from vtok.tokens.parts import write_tokens
from vtok.video.revision import DECODING_REVISION

CLASSES = ["c0", "c1", "c2"]
Rows = dict[str, list[dict[str, Any]]]


def row_of(number: int, split: str, grid: tuple[int, int, int] = GRID, codebook_size: int = 64) -> dict[str, Any]:
    """A row whose label is that of its class."""
    return {**token_row(number, split, codebook_size, grid), "label": number % 3}


def some_rows(grids: Callable[[int], tuple[int, int, int]] = lambda number: GRID) -> Rows:
    """18 rows in three parts: test 3, train 9 and 6."""
    spans = {"test-00000": range(3), "train-00000": range(3, 12), "train-00001": range(12, 18)}
    return {
        f"{name}.parquet": [row_of(n, name.partition("-")[0], grids(n)) for n in numbers]
        for name, numbers in spans.items()
    }


def store_of(
    folder: Path,
    rows: Rows,
    *,
    codebook_size: int = 64,
    tokenizer: str = TOKENIZER,
    row_group_rows: int = 4,
    audio_codebook_size: int = 0,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Writes and seals a store, with these facts on its card besides."""
    today = {"decoding_revision": DECODING_REVISION, "planning_revision": DECODING_REVISION}
    config = {"mode": "exact", MADE_WITH: today}
    plan = artefacts.make_plan("tokens", config, {"shards": "0" * 64, "tokenizer": tokenizer}, list(rows))
    artefacts.begin(folder, plan)
    grids = {(row["grid_t"], row["grid_h"], row["grid_w"]) for part in rows.values() for row in part}
    grid = grids.pop() if len(grids) == 1 else None
    parts = [
        write_tokens(
            folder / name,
            part,
            tokenizer=tokenizer,
            codebook_size=codebook_size,
            grid=grid,
            plan=plan.fingerprint,
            split=name.partition("-")[0],
            rejects=[],
            row_group_rows=row_group_rows,
            point="",
            audio_codebook_size=audio_codebook_size,
        )
        for name, part in rows.items()
    ]
    said = {
        "tokenizer": tokenizer,
        "codebook_size": codebook_size,
        "grid": None if grid is None else list(grid),
        "mode": "exact",
        "classes": CLASSES,
        "audio_codebook_size": audio_codebook_size,
        **(facts or {}),
    }
    every = [row for part in rows.values() for row in part]
    counts = {"clips": len(every), "tokens": sum(np.asarray(row["codes"]).size for row in every), "parts": len(parts)}
    artefacts.seal(folder, plan, parts, counts=counts, facts=said)
    return folder
