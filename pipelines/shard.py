"""Shard: every clip of the manifest is decoded once and packed into WebDataset tars.

Which clips go into which shard is planned before anything is decoded, so the shards do not depend on the number of
workers, on encoded sizes or on what fails: a clip that cannot be decoded leaves a reject row instead of a sample.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.ingest import read_manifest_parts
from pipelines.runtime import Unit, run_job
from schemas.card import Card, Plan
from schemas.clips import CLIPS, reject_row
from schemas.config import Recipe
from schemas.config.data import DataConfig, ShardsConfig
from schemas.errors import IntegrityError
from schemas.paths import as_path
from schemas.shards import MANIFEST_NAME
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.datasets.base import source_path
from vtok.files import local_copy, sha256_of, write_table
from vtok.shards.codec import encode_clip, encode_extras
from vtok.shards.duplicates import find_duplicates, summary
from vtok.shards.writer import read_footer, verify_shard, write_shard
from vtok.video.child import DecodeChild
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import ffmpeg_binary
from vtok.video.frames_ffmpeg import cuda_problem
from vtok.video.media.companions import split_address


def shard(recipe: Recipe) -> Card:
    """Makes `shards/` of the run from its `clips/`.

    Raises:
        UsageError: the manifest is missing or unfinished.
        VtokError: the ffmpeg program is needed and not there.
    """
    clips_folder, folder = recipe.folder("clips"), recipe.folder("shards")
    if recipe.shards.decoder == "ffmpeg" or recipe.shards.encoding == "h264":
        ffmpeg_binary()  # fails now rather than in a worker
    if recipe.shards.hwaccel == "cuda" and (problem := cuda_problem()) is not None:
        console.note(f"shard: ffmpeg cannot use NVDEC here ({problem}); it decodes on the CPU, the same frames")
    clips = artefacts.load(clips_folder, "clips")
    manifest = read_manifest_parts(clips_folder, artefacts.load_index(clips_folder)["path"].to_pylist())
    units = plan_shards(manifest.to_pylist(), recipe.shards, recipe.seed)
    config = {
        "shards": recipe.shards.plain(),
        "resolution": recipe.data.resolution,
        "num_frames": recipe.data.num_frames,
        "seed": recipe.seed,
    }
    plan = artefacts.make_plan("shards", config, {"clips": clips.fingerprint}, [unit.name for unit in units])

    def finish(parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
        written = _write_manifest(folder, manifest, [part.path for part in parts])
        counts = {"clips": len(written), "planned": manifest.num_rows, "shards": len(parts)}
        copies = summary(find_duplicates(written))
        if copies["across_splits"]:
            console.note(
                f"leakage: {console.count(copies['across_splits'], 'files')} with an exact copy in another split "
                f"(`vtok data check {folder}` names them)"
            )
        return counts, {**clips.facts, "splits": _split_counts(parts), "duplicates": copies}

    return run_job(
        folder,
        plan,
        units,
        worker=ShardWorker,
        init=(str(folder), plan.fingerprint, recipe.data.plain(), recipe.shards.plain()),
        cluster=recipe.cluster,
        recover=recover_shard,
        finish=finish,
        title="shard",
        item="clips",
    )


def plan_shards(rows: list[dict[str, Any]], config: ShardsConfig, seed: int) -> list[Unit]:
    """Cuts the manifest into shards: splits apart, `clips_per_shard` clips each, a video's clips kept in sequence.

    Args:
        rows: manifest rows in manifest order.
        config: `shuffle` orders the videos by a hash of (seed, source) instead of by name.
        seed: the run's seed.
    """
    units = []
    for split in sorted({row["split"] for row in rows}):
        videos = [list(group) for _, group in itertools.groupby(_of(rows, split), key=lambda row: row["source"])]
        if config.shuffle:
            videos.sort(key=lambda video: _hash(seed, video[0]["source"]))
        clips = [row for video in videos for row in video]
        size = config.clips_per_shard
        for number, start in enumerate(range(0, len(clips), size)):
            payload = clips[start : start + size]
            units.append(Unit(f"{split}-{number:05d}.tar", len(payload), payload))
    return units


def _of(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["split"] == split]


def _hash(seed: int, source: str) -> str:
    return hashlib.sha256(f"{seed}/{source}".encode()).hexdigest()


def recover_shard(path: Path, plan: Plan) -> Part:
    """The description of a shard that an earlier run finished.

    Raises:
        IntegrityError: truncated or damaged, or made to another plan.
    """
    footer = verify_shard(path)
    if footer["plan"] != plan.fingerprint:
        raise IntegrityError("made to another plan", at=str(path))
    return Part(path.name, footer["split"], footer["rows"], path.stat().st_size, sha256_of(path), footer["rejects"])


def _write_manifest(folder: Path, manifest: pa.Table, names: list[str]) -> list[dict[str, Any]]:
    """Writes the completed manifest of the written clips; returns its rows."""
    hashes: dict[str, str] = {}
    rejected: set[str] = set()
    for name in names:
        footer = read_footer(folder / name)
        hashes |= footer["sources"]
        rejected |= {reject["clip_id"] for reject in footer["rejects"]}
    rows = [
        {**row, "source_sha256": hashes[row["source"]]}
        for row in manifest.to_pylist()
        if row["clip_id"] not in rejected
    ]
    write_table(folder / MANIFEST_NAME, pa.Table.from_pylist(rows, schema=CLIPS))
    return rows


def _split_counts(parts: list[Part]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.split] = counts.get(part.split, 0) + part.rows
    return counts


class ShardWorker:
    """Decodes in a disposable child and writes tars."""

    def __init__(self, folder: str, plan: str, data: dict[str, Any], shards: dict[str, Any]) -> None:
        self.folder, self.plan = as_path(folder), plan
        self.data = DataConfig.model_validate(data)
        self.config = ShardsConfig.model_validate(shards)
        self.child = DecodeChild(max_memory_mb=self.config.max_memory_mb)

    def make(self, name: str, payload: list[dict[str, Any]]) -> Part:
        """Writes one shard; one decode pass a video."""
        split = payload[0]["split"]
        footer: dict[str, Any] = {"plan": self.plan, "split": split, "rows": 0, "sources": {}, "rejects": []}
        path = self.folder / name
        size, sha256 = write_shard(path, self._samples(payload, footer), footer, point=f"shards:{name}")
        return Part(name, split, footer["rows"], size, sha256, footer["rejects"])

    def _samples(self, payload: list[dict[str, Any]], footer: dict[str, Any]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yields (clip_id, members); fills the footer on the way."""
        for source, group in itertools.groupby(payload, key=lambda row: row["source"]):
            rows = list(group)
            with local_copy(as_path(self.data.root) / source_path(source, rows[0]["item"])) as local:
                decoded = self.child.decode(
                    str(local),
                    rows,
                    resolution=self.data.resolution,
                    policy=self.config.policy,
                    decoder=self.config.decoder,
                    max_pixels=self.config.max_pixels,
                    max_frames=self.config.max_frames,
                    hwaccel=self.config.hwaccel,
                    cpu_seconds=self.config.cpu_seconds_per_video,
                    audio_rate=self.config.audio_rate,
                    companions=self._companions(rows[0]),
                )
                for index, result in decoded:
                    row = rows[index]
                    if isinstance(result, VideoError):
                        footer["rejects"].append(
                            reject_row("shards", source, row["clip_id"], result.reason, result.detail)
                        )
                        continue
                    footer["rows"] += 1
                    row = {**row, "source_sha256": decoded.sha256}
                    footer["sources"][source] = decoded.sha256
                    meta = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
                    frames = encode_clip(result.frames_thwc, self.config, clip_fps(row))
                    yield row["clip_id"], {"json": meta, **frames, **encode_extras(result.extras, self.config)}

    def _companions(self, row: dict[str, Any]) -> dict[str, tuple[str, str]]:
        """Name to absolute path and item of what lies beside a video."""
        found = {name: split_address(address) for name, address in json.loads(row["companions"] or "{}").items()}
        return {name: (str(Path(self.data.root) / path), item) for name, (path, item) in found.items()}


def clip_fps(row: dict[str, Any]) -> float:
    """Frames per second of a clip as it was sampled."""
    return float(row["frame_rate"] or row["fps"] / row["frame_stride"])
