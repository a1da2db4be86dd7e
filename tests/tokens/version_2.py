"""Makes the fixture `store_v2`: `python -m tests.tokens.version_2 FOLDER`. What is committed is never made again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from schemas.clips import reject_row
from schemas.config.tokens import ViewConfig
from tests.tokens.making import GRID, TOKENIZER, token_row
from vtok import artefacts
from vtok.tokens.parts import write_tokens
from vtok.tokens.sealing import contents_fingerprint, store_facts

AUDIO = {
    "fingerprint": "c" * 64,
    "codebook_size": 32,
    "spectrum": {"source": "mel"},
    "audio_rate": 16_000,
}
VIEWS = [ViewConfig(), ViewConfig(name="mirrored", flip=True)]
CLIPS = {"test-00000": range(7, 10), "train-00000": range(5), "train-00001": range(5, 7)}


def rows_of(stem: str, view: ViewConfig) -> list[dict[str, Any]]:
    """The rows of a part: with a pixel frame and four codes of sound, but for one that is silent."""
    rows = []
    for number in CLIPS[stem]:
        row = token_row(number, stem.partition("-")[0], 64)
        codes = row["codes"].reshape(GRID)
        row |= {"view_id": view.name, "flip": view.flip, "label": number % 3, "shard": f"{stem}.tar"}
        row["codes"] = (codes[:, :, ::-1] if view.flip else codes).reshape(-1)
        row["cond_frames"] = np.full((1, row["height"], row["width"], 3), number, np.uint8).tobytes()
        row["audio_codes"] = None if number == 5 else np.arange(number, number + 4)
        row["caption"] = f"ein Käfer, {number}" if number % 2 else None
        rows.append(row)
    return rows


def make(folder: Path) -> None:
    """Writes and seals the store as `vtok tokenize` does."""
    names = {
        f"{stem}.parquet" if view.name == "whole" else f"{stem}.{view.name}.parquet": (stem, view)
        for stem in CLIPS
        for view in VIEWS
    }
    contents = {name: f"{number:064x}" for number, name in enumerate(names)}
    config = {
        "tokenizer": TOKENIZER,
        "codebook_size": 64,
        "mode": "exact",
        "device": "cpu",
        "chunk_frames": None,
        "cond_frames": 1,
        "batch_size": 1,
        "row_group_rows": 4,
        "source": "shards",
        "decoding": {"decoder": "pyav"},
        "audio": {**AUDIO, "silent": "null"},
        "views": [{**view.plain(), "grid": list(GRID), "audio_grid": [1, 2, 2]} for view in VIEWS],
        "classes": ["c0", "c1", "c2"],
        "contents": contents_fingerprint(contents),
    }
    plan = artefacts.make_plan("tokens", config, {"shards": "0" * 64, "tokenizer": "d" * 64}, list(names))
    artefacts.begin(folder, plan)
    written = []
    for name, (stem, view) in names.items():
        lost = [reject_row("tokens", "c1/99.avi", "clip-0099", "no_sound", "")] if name == "train-00001.parquet" else []
        written.append(
            write_tokens(
                folder / name,
                rows_of(stem, view),
                tokenizer=TOKENIZER,
                codebook_size=64,
                grid=GRID,
                plan=contents[name],
                split=stem.partition("-")[0],
                rejects=lost,
                row_group_rows=4,
                point="",
                audio={**AUDIO, "grid": [1, 2, 2]},
                made_by={"view": view.plain(), "device": "cpu", "chunk_frames": None},
            )
        )
    counts, facts = store_facts(folder, plan, written)
    artefacts.seal(folder, plan, written, counts=counts, facts=facts)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
