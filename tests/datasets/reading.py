"""From a layout's list to the samples of shards, without Ray: what the workers of ingest and shard do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.ingest import IngestWorker, _message
from pipelines.shard import ShardWorker
from schemas.clips import CLIPS
from schemas.config.data import DataConfig, ShardsConfig
from vtok.datasets import LAYOUTS
from vtok.datasets.base import SourceVideo
from vtok.shards.codec import decode_clip, decode_extras
from vtok.video.errors import VideoError
from vtok.video.revision import made_with


class Clip(NamedTuple):
    """One sample."""

    row: dict[str, Any]
    frames_thwc: np.ndarray
    extras: dict[str, np.ndarray]


class Made(NamedTuple):
    """What became of a folder: clips by source, and (source, reason) of rejects."""

    clips: dict[str, list[Clip]]
    rejects: list[tuple[str, str]]


def config(root: Path, layout: str, **changes: Any) -> DataConfig:
    """Clips of 4 frames of 48x48."""
    return DataConfig(**{"root": str(root), "layout": layout, "resolution": 48, "num_frames": 4, **changes})


def listed(root: Path, layout: str, **changes: Any) -> dict[str, SourceVideo]:
    """The videos by source."""
    videos = LAYOUTS[layout](root, config(root, layout, **changes))
    found = {video.source: video for video in videos}
    assert len(found) == len(videos), "two videos with one source"
    return found


def rejects(videos: dict[str, SourceVideo]) -> dict[str, str]:
    """The reasons of the videos that must not be used."""
    return {source: video.reject[0] for source, video in videos.items() if video.reject}


def make(root: Path, layout: str, audio_rate: int | None = None, **changes: Any) -> Made:
    """Lists, probes, plans and decodes."""
    data = config(root, layout, **changes)
    shards = ShardsConfig(encoding="raw", audio_rate=audio_rate)
    made = Made({}, [])
    ingest = IngestWorker("", "", data.model_dump(mode="json"), made_with())
    shard = ShardWorker("", "", "", [], data.plain(), shards.plain(), made_with(encoding="raw"))
    try:
        for video in LAYOUTS[layout](root, data):
            try:
                rows = pa.Table.from_pylist(list(ingest._clips(_message(video, root))[0]), schema=CLIPS).to_pylist()
            except VideoError as error:
                made.rejects.append((video.source, error.reason))
                continue
            footer: dict[str, Any] = {"rows": 0, "sources": {}, "rejects": []}
            for _, members in shard._samples(rows, footer):
                sample = Clip(json.loads(members["json"]), decode_clip(members), decode_extras(members))
                made.clips.setdefault(video.source, []).append(sample)
            made.rejects.extend((reject["source"], reject["reason"]) for reject in footer["rejects"])
    finally:
        ingest.child.close()
        shard.decoder.child.close()
    return made
