"""A tree through listing, ingest and shard, without Ray: what the jobs' workers make of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.ingest import IngestWorker, _message
from pipelines.manifest import ManifestPart
from pipelines.plan_shards import plan_shards
from pipelines.shard import ShardWorker
from schemas.clips import CLIPS
from schemas.config.data import DataConfig, ShardsConfig
from vtok.datasets import LAYOUTS
from vtok.files import read_table
from vtok.shards.codec import decode_extras
from vtok.shards.reader import decode_sample, read_samples
from vtok.video.child import DecodeChild
from vtok.video.revision import made_with


class Made(NamedTuple):
    """What became of a tree.

    Attributes:
        rows: of the manifest.
        clips: by source, (frames, extras) in the order of their starts.
        rejects: by source, (stage, reason).
        details: by source, those of the rejects.
    """

    rows: list[dict[str, Any]]
    clips: dict[str, list[tuple[np.ndarray, dict[str, np.ndarray]]]]
    rejects: dict[str, tuple[str, str]]
    details: dict[str, str]


@functools.cache
def _child() -> DecodeChild:
    """One for all tests: it takes a second to start. It ends with this process."""
    return DecodeChild()


def make(root: Path, out: Path, *, damage: Any = None, **data: Any) -> Made:
    """Ingests and shards a tree; `damage`, if any, is called in between."""
    config = DataConfig(root=str(root), **data)
    settings = config.model_dump(mode="json")
    videos = LAYOUTS[config.layout](root, config)
    ingest = IngestWorker(str(out / "clips"), "plan", settings, made_with())
    ingest.child = _child()
    part = ingest.make("part.parquet", [_message(video, root) for video in videos])
    rows = read_table(out / "clips" / part.path, schema=CLIPS).to_pylist()
    rejects = list(part.rejects)
    if damage is not None:
        damage()
    shards = ShardsConfig(encoding="raw")
    manifest = [ManifestPart(part.path, len(rows), part.sha256)]
    worker = ShardWorker(
        str(out / "shards"),
        "plan",
        str(out / "clips"),
        manifest,
        settings,
        shards.model_dump(mode="json"),
        made_with(encoding="raw"),
    )
    worker.child = _child()
    clips: dict[str, list[Any]] = {}
    for unit in plan_shards(worker.manifest.columns(), config, shards, 0) if rows else []:
        made = worker.make(unit.name, unit.payload)
        rejects += made.rejects
        for sample in read_samples(out / "shards" / made.path):
            clip = decode_sample(sample, out)
            clips.setdefault(clip.meta["source"], []).append((clip.video_thwc, decode_extras(sample)))
    reasons = {row["source"]: (row["stage"], row["reason"]) for row in rejects}
    return Made(rows, clips, reasons, {row["source"]: row["detail"] for row in rejects})
