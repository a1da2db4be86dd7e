"""Tokenize: every clip of the shards goes through the tokenizer once, into the Parquet token store.

One shard becomes one part. Batches have a fixed shape (the last one is padded), so that a clip's codes do not depend on
its neighbours, and workers run on a fixed number of threads.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.runtime import Job, Unit, run_job
from pipelines.shard import clip_fps
from schemas.card import Card
from schemas.config import Recipe
from schemas.config.tokenizer import TokensConfig
from schemas.errors import UsageError
from schemas.paths import as_path
from vtok import artefacts
from vtok.artefacts import Part
from vtok.parquet import recover_part
from vtok.shards.reader import Clip, read_shard
from vtok.stopwatch import Stopwatch
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.parts import write_tokens
from vtok.video.ranges import to_model_range

_STORED, _ROW_BYTES = 1.05, 60
"""Estimated size of a token row: this many times log2(codebook size) bits a code, and its other columns."""


def tokenize(recipe: Recipe) -> Card:
    """Makes `tokens/` of the run from its `shards/` and `tokenizer/`.

    Raises:
        UsageError: one of them is missing or unfinished, or the clips do not fit the tokenizer.
    """
    return run_job(tokenize_job(recipe), recipe.cluster)


def tokenize_job(recipe: Recipe) -> Job:
    """Plans the job; writes nothing. Raises what `tokenize` raises."""
    shards_folder, tokenizer_folder, folder = (recipe.folder(name) for name in ("shards", "tokenizer", "tokens"))
    shards = artefacts.load(shards_folder, "shards")
    tokenizer_card = artefacts.load(tokenizer_folder, "tokenizer")
    tokenizer = load_tokenizer(tokenizer_folder)
    size = shards.config["resolution"]
    try:
        grid = tokenizer.grid(shards.config["num_frames"], size, size)
    except ValueError as error:
        raise UsageError(str(error), at=str(shards_folder), hint="make shards that fit the tokenizer") from None
    index = artefacts.load_index(shards_folder).to_pylist()
    code_bytes = int(np.prod(grid)) * math.log2(tokenizer.codebook_size) / 8
    units = [
        Unit(
            f"{Path(row['path']).stem}.parquet",
            row["rows"] + row["rejects"],
            row,
            cost=float(row["rows"]),
            bytes=round(row["rows"] * (code_bytes * _STORED + _ROW_BYTES)),
        )
        for row in index
    ]
    config = {"row_group_rows": recipe.tokens.row_group_rows, "batch_size": recipe.tokens.batch_size, "mode": "exact"}
    inputs = {"shards": shards.fingerprint, "tokenizer": tokenizer_card.fingerprint}
    plan = artefacts.make_plan("tokens", config, inputs, [unit.name for unit in units])
    facts = {
        "tokenizer": tokenizer.fingerprint,
        "codebook_size": tokenizer.codebook_size,
        "grid": list(grid),
        "mode": "exact",
        "classes": shards.facts["classes"],
    }

    def finish(parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
        clips = sum(part.rows for part in parts)
        return {"clips": clips, "tokens": clips * int(np.prod(grid)), "parts": len(parts)}, facts

    def measure() -> float:
        batch = torch.zeros(recipe.tokens.batch_size, 3, shards.config["num_frames"], size, size)
        torch.set_num_threads(recipe.tokens.threads)
        started = time.monotonic()
        with torch.inference_mode():
            tokenizer.encode(batch)
        return (time.monotonic() - started) * sum(row["rows"] for row in index) / len(batch)

    return Job(
        folder,
        plan,
        units,
        worker=TokenizeWorker,
        init=(str(folder), plan.fingerprint, str(shards_folder), str(tokenizer_folder), recipe.tokens.plain(), grid),
        recover=recover_part,
        finish=finish,
        title="tokenize",
        item="clips",
        seconds=measure,
        splits={key: sum(row["rows"] for row in index if row["split"] == key) for key in shards.facts["splits"]},
    )


class TokenizeWorker:
    """Holds the tokenizer and encodes shards."""

    def __init__(
        self,
        folder: str,
        plan: str,
        shards: str,
        tokenizer: str,
        config: dict[str, Any],
        grid: tuple[int, int, int],
    ) -> None:
        self.folder, self.plan, self.shards, self.grid = as_path(folder), plan, as_path(shards), grid
        self.config = TokensConfig.model_validate(config)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(self.config.threads)
        self.tokenizer = load_tokenizer(tokenizer, device=self.device)
        self.clock = Stopwatch()

    def make(self, name: str, payload: dict[str, Any]) -> Part:
        """Encodes one shard into one part, after verifying the shard's bytes."""
        shard = artefacts.verify_part(self.shards, payload["path"], payload["sha256"])
        rows: list[dict[str, Any]] = []
        batch: list[Clip] = []
        for clip in self.clock.each("read", read_shard(shard)):
            batch.append(clip)
            if len(batch) == self.config.batch_size:
                rows += self._encode(batch, payload["path"])
                batch = []
        if batch:
            rows += self._encode(batch, payload["path"])
        with self.clock.phase("write"):
            return write_tokens(
                self.folder / name,
                rows,
                tokenizer=self.tokenizer.fingerprint,
                codebook_size=self.tokenizer.codebook_size,
                grid=self.grid,
                plan=self.plan,
                split=payload["split"],
                rejects=[],
                row_group_rows=self.config.row_group_rows,
                point=f"tokens:{name}",
            )

    def _encode(self, clips: list[Clip], shard: str) -> list[dict[str, Any]]:
        videos = np.stack([clip.video_thwc for clip in clips])
        padding = self.config.batch_size - len(clips)
        video_bcthw = to_model_range(np.pad(videos, ((0, padding), *((0, 0),) * 4)))
        with self.clock.phase("encode"), torch.inference_mode():
            codes = self.tokenizer.encode(torch.from_numpy(video_bcthw).to(self.device)).cpu().numpy()
        t, h, w = self.grid
        height, width = videos.shape[2:4]
        return [
            {
                **{key: clip.meta[key] for key in _COPIED},
                "height": height,
                "width": width,
                "codes": codes[index].reshape(-1),
                "grid_t": t,
                "grid_h": h,
                "grid_w": w,
                "fps": clip_fps(clip.meta),
                "shard": shard,
                "windowed_from": None,
            }
            for index, clip in enumerate(clips)
        ]


_COPIED = (
    "clip_id",
    "num_frames",
    "start_time",
    "end_time",
    "split",
    "label",
    "class_name",
    "caption",
    "source",
    "source_sha256",
)
