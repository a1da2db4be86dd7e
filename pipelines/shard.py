"""Shard: every clip of the manifest is decoded once and packed into WebDataset tars.

Which clips go into which shard is planned before anything is decoded, so the shards do not depend on the number of
workers, on encoded sizes or on what fails: a clip that cannot be decoded leaves a reject row instead of a sample.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.decode_clips import ClipDecoder, clip_fps
from pipelines.manifest import Manifest, ManifestPart
from pipelines.plan_shards import plan_shards
from pipelines.runtime import Job, Unit, run_job
from schemas.card import MADE_WITH, Card, Plan
from schemas.clips import CLIPS, reject_row
from schemas.config import Recipe
from schemas.config.data import DataConfig, ShardsConfig
from schemas.errors import IntegrityError
from schemas.paths import as_path
from schemas.shards import MANIFEST_NAME
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.files import atomic_file, sha256_of
from vtok.parquet_writer import parquet_writer, write_rows
from vtok.shards.codec import encode_clip, encode_extras
from vtok.shards.duplicates import find_duplicates, summary
from vtok.shards.writer import read_footer, verify_shard, write_shard
from vtok.stopwatch import Stopwatch
from vtok.video.errors import VideoError
from vtok.video.ffmpeg_run import cuda_problem
from vtok.video.revision import made_with, must_be_same

_ROW_GROUP = 65_536


def shard(recipe: Recipe) -> Card:
    """Makes `shards/` of the run from its `clips/`.

    Raises:
        UsageError: the manifest is missing or unfinished.
        VtokError: the ffmpeg program is needed and not there.
    """
    return run_job(shard_job(recipe), recipe.cluster)


def shard_job(recipe: Recipe) -> Job:
    """Plans the job; writes nothing. Raises what `shard` raises."""
    clips_folder, folder = recipe.folder("clips"), recipe.folder("shards")
    if recipe.shards.hwaccel == "cuda" and (problem := cuda_problem()) is not None:
        console.note(f"shard: ffmpeg cannot use NVDEC here ({problem}); it decodes on the CPU, the same frames")
    clips = artefacts.load(clips_folder, "clips")
    manifest = Manifest.load(clips_folder)
    units = plan_shards(manifest.columns(), recipe.data, recipe.shards, recipe.seed)
    config = {
        "shards": recipe.shards.plain(),
        "resolution": recipe.data.resolution,
        "pixel_aspect": recipe.data.pixel_aspect,
        "num_frames": recipe.data.num_frames,
        "seed": recipe.seed,
        MADE_WITH: made_with(decoder=recipe.shards.decoder, encoding=recipe.shards.encoding, planned=clips.config),
    }
    plan = artefacts.make_plan("shards", config, {"clips": clips.fingerprint}, [unit.name for unit in units])

    def finish(parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
        written, suspects = _write_manifest(folder, manifest, units)
        counts = {"clips": written, "planned": len(manifest), "shards": len(parts)}
        copies = summary(find_duplicates(suspects))
        if copies["across_splits"]:
            console.note(
                f"leakage: {console.count(copies['across_splits'], 'files')} with an exact copy in another split "
                f"(`vtok data check {folder}` names them)"
            )
        return counts, {**clips.facts, "splits": _split_counts(parts), "duplicates": copies}

    return Job(
        folder,
        plan,
        units,
        worker=ShardWorker,
        init=(
            str(folder),
            plan.fingerprint,
            str(clips_folder),
            manifest.parts,
            recipe.data.plain(),
            recipe.shards.plain(),
            config[MADE_WITH],
        ),
        recover=recover_shard,
        finish=finish,
        title="shard",
        item="clips",
        seconds=lambda: sum(unit.cost for unit in units),
        splits=_planned_splits(units),
    )


def recover_shard(path: Path, plan: Plan) -> Part:
    """The description of a shard that an earlier run finished.

    Raises:
        IntegrityError: truncated or damaged, or made to another plan.
    """
    footer = verify_shard(path)
    if footer["plan"] != plan.fingerprint:
        raise IntegrityError("made to another plan", at=str(path))
    return Part(path.name, footer["split"], footer["rows"], path.stat().st_size, sha256_of(path), footer["rejects"])


def _write_manifest(folder: Path, manifest: Manifest, units: list[Unit]) -> tuple[int, list[dict[str, Any]]]:
    """Writes the completed manifest of the written clips, part by part.

    Returns:
        Their number, and what `find_duplicates` needs of those whose content is another source's, too.
    """
    hashes = np.zeros((len(manifest), 32), np.uint8)
    rejected: set[str] = set()
    beside: dict[str, str] = {}
    sources = manifest.columns(("source",))["source"]
    for unit in units:
        footer = read_footer(folder / unit.name)
        rejected |= {reject["clip_id"] for reject in footer["rejects"]}
        beside |= footer.get("companions", {})
        known = footer["sources"]
        digests = [bytes.fromhex(known.get(source, "")) for source in sources.take(pa.array(unit.payload)).to_pylist()]
        hashes[unit.payload] = np.frombuffer(b"".join(d or bytes(32) for d in digests), np.uint8).reshape(-1, 32)
    shared = _shared(hashes, sources)
    written, suspects = 0, []
    with (
        atomic_file(folder / MANIFEST_NAME) as stream,
        parquet_writer(stream, CLIPS) as writer,
    ):
        for table in _row_groups(_completed(manifest, hashes, beside, rejected)):
            write_rows(writer, table)
            written += table.num_rows
            if shared:
                few = table.select(["source", "medium", "item", "source_sha256", "split"])
                suspects += few.filter(pc.is_in(few["source_sha256"], value_set=pa.array(shared))).to_pylist()
    return written, suspects


def _shared(hashes: np.ndarray, sources: pa.ChunkedArray) -> list[str]:
    """The sha256 (hex) that more than one source has."""
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in sources.dictionary_encode().chunks])
    known = hashes.any(axis=1)
    pairs = np.unique(np.c_[hashes[known, :8].copy().view("<u8").ravel(), codes[known].astype(np.uint64)], axis=0)
    starts, counts = np.unique(pairs[:, 0], return_counts=True)
    rows = np.isin(hashes[:, :8].copy().view("<u8").ravel(), starts[counts > 1]) & known
    return [row.tobytes().hex() for row in np.unique(hashes[rows], axis=0)]


def _completed(
    manifest: Manifest, hashes: np.ndarray, beside: dict[str, str], rejected: set[str]
) -> Iterator[pa.Table]:
    """The parts of the manifest with the sha256 of sources and companions, without the rejected clips."""
    place, companions = (CLIPS.get_field_index(name) for name in ("source_sha256", "companions_sha256"))
    for number in range(len(manifest.parts)):
        table = manifest.part(number)
        mine = hashes[manifest.starts[number] : manifest.starts[number + 1]]
        table = table.set_column(
            place, CLIPS.field(place), pa.array([row.tobytes().hex() for row in mine], pa.string())
        )
        if beside:
            found = [beside.get(clip) for clip in table["clip_id"].to_pylist()]
            table = table.set_column(companions, CLIPS.field(companions), pa.array(found, pa.string()))
        if rejected:
            table = table.filter(pa.array([clip not in rejected for clip in table["clip_id"].to_pylist()], pa.bool_()))
        yield table


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Joins tables until they fill a row group; one empty table if there is nothing."""
    waiting = [CLIPS.empty_table()]
    for table in tables:
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= _ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _planned_splits(units: list[Unit]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for unit in units:
        counts[unit.name.rpartition("-")[0]] += unit.items
    return counts


def _split_counts(parts: list[Part]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.split] = counts.get(part.split, 0) + part.rows
    return counts


class ShardWorker:
    """Decodes in a disposable child and writes tars."""

    def __init__(
        self,
        folder: str,
        plan: str,
        clips: str,
        parts: list[ManifestPart],
        data: dict[str, Any],
        shards: dict[str, Any],
        programs: dict[str, Any],
    ) -> None:
        self.folder, self.plan = as_path(folder), plan
        self.manifest = Manifest(as_path(clips), parts)
        self.config = ShardsConfig.model_validate(shards)
        must_be_same(programs, decoder=self.config.decoder, encoding=self.config.encoding)
        self.clock = Stopwatch()
        self.decoder = ClipDecoder(DataConfig.model_validate(data), self.config, self.clock)

    def make(self, name: str, payload: np.ndarray) -> Part:
        """Writes one shard of the clips with these row numbers; one decode pass a video."""
        with self.clock.phase("manifest"):
            rows = self.manifest.take(payload)
        split = rows[0]["split"]
        footer: dict[str, Any] = {"plan": self.plan, "split": split, "rows": 0, "sources": {}, "rejects": []}
        path = self.folder / name
        with self.clock.phase("write"):
            size, sha256 = write_shard(path, self._samples(rows, footer), footer, point=f"shards:{name}")
        return Part(name, split, footer["rows"], size, sha256, footer["rejects"])

    def _samples(self, clips: list[dict[str, Any]], footer: dict[str, Any]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yields (clip_id, members); fills the footer on the way."""
        for row, result in self.decoder.clips(clips):
            if isinstance(result, VideoError):
                footer["rejects"].append(
                    reject_row("shards", row["source"], row["clip_id"], result.reason, result.detail)
                )
                continue
            footer["rows"] += 1
            footer["sources"][row["source"]] = row["source_sha256"]
            if row["companions_sha256"] is not None:
                footer.setdefault("companions", {})[row["clip_id"]] = row["companions_sha256"]
            meta = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            with self.clock.phase("encode"):
                frames = encode_clip(result.frames_thwc, self.config, clip_fps(row))
                extras = encode_extras(result.extras, self.config)
            yield row["clip_id"], {"json": meta, **frames, **extras}
