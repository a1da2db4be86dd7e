"""Ingest: a folder of videos becomes a clip manifest, with a reject row for everything that does not make it.

Only headers are read here (packets where a container has no frame count), unless the recipe asks for what only frames
tell: shots, motion, black, bars. Then every video is decoded once more. The bytes of a file are hashed once: by the
shard job, in the pass that decodes them.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.runtime import Job, Unit, run_job
from schemas.card import MADE_WITH, Card
from schemas.clips import CLIPS, reject_row
from schemas.config import Recipe
from schemas.config.base import fingerprint_of_list
from schemas.config.data import DataConfig
from schemas.errors import UsageError
from schemas.paths import as_path, local_only
from vtok import artefacts, console
from vtok.artefacts import Part
from vtok.datasets import LAYOUTS
from vtok.datasets.base import SourceVideo
from vtok.datasets.tally import tally_files
from vtok.files import local_copy, read_table
from vtok.parquet import recover_part, write_part_slices
from vtok.stopwatch import Stopwatch
from vtok.video.analysis import Analysis, judge, shots
from vtok.video.budget import affordable_frames
from vtok.video.child import DecodeChild
from vtok.video.child_wire import Probed
from vtok.video.clips import ClipSpan, clip_id, iter_clips, limit_clips, plan_windows
from vtok.video.errors import Reason, VideoError
from vtok.video.geometry import scale_box
from vtok.video.media.companions import companion_size, split_address
from vtok.video.probe import FOR_PLANNING, StreamFacts
from vtok.video.revision import made_with, must_be_same

FILES_PER_UNIT = 256
SLICE_ROWS = 1 << 14
"""Rows of the manifest that a worker has in memory at a time, besides the part's file, about 15 bytes a row."""
_OF_THE_CARD = ["source", "split", "label", "class_name", "tilt", "rotation"]
_EXAMPLES = 3  # rejects that an error names
_PROBE_ESTIMATE = 0.01  # seconds for one file's headers, as a rule
_PROBE_SECONDS = 20.0  # CPU time for one file's headers
_PACKET_BYTES = 10 << 20  # of a file whose packets are counted in a second of CPU time, at the slowest
_ANALYSIS_SECONDS = 60.0  # CPU time for looking at one file's frames, besides an allowance for pixels and bytes


def ingest(recipe: Recipe) -> Card:
    """Makes `clips/` of the run: parts of the manifest, index, rejects, card.

    Raises:
        UsageError: no such folder, no videos in it, or no video long enough for one clip.
    """
    return run_job(ingest_job(recipe), recipe.cluster)


def ingest_job(recipe: Recipe) -> Job:
    """Plans the job; writes nothing. Raises what `ingest` raises."""
    data = recipe.data
    root = as_path(data.root)
    videos = LAYOUTS[data.layout](root, data)
    tally = tally_files(root, videos)
    if tally.others:
        count = console.count(sum(tally.others.values()), "files")
        console.note(f"note: {count} below data.root are no videos: {tally.said}")
    if any(video.medium or video.companions for video in videos):
        local_only(root, "a layout of anything but video files", "copy the dataset to a local disk and set data.root")
    groups = [Messages(videos[i : i + FILES_PER_UNIT], root) for i in range(0, len(videos), FILES_PER_UNIT)]
    listing = ({key: value for key, value in _message(v, root).items() if key != "path"} for v in videos)
    units = [Unit(f"part-{number:05d}.parquet", len(group), group) for number, group in enumerate(groups)]
    config = {**data.model_dump(mode="json", exclude={"root"}), MADE_WITH: made_with()}
    plan = artefacts.make_plan("clips", config, {"files": fingerprint_of_list(listing)}, [unit.name for unit in units])
    folder = recipe.folder("clips")

    def finish(parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
        table = read_manifest_parts(folder, [part.path for part in parts], _OF_THE_CARD)
        if table.num_rows == 0:
            artefacts.discard(folder, plan)  # so that the next try may plan clips in another way
            raise _nothing_left(recipe, [reject for part in parts for reject in part.rejects])
        _say_tilted(table)
        classes = _classes(table)
        files = table.column("source").unique()
        splits = table.column("split").value_counts().to_pylist()
        lost = {reject["source"] for part in parts for reject in part.rejects} - set(files.to_pylist())
        counts = {
            "files": len(videos),
            "files_with_clips": len(files),
            "rejected_files": len(lost),
            "other_files": sum(tally.others.values()),
            "clips": table.num_rows,
        }
        by_split = {row["values"]: row["counts"] for row in splits}
        facts = {"splits": by_split, "classes": classes, "other_files": tally.others}
        return counts, facts

    return Job(
        folder,
        plan,
        units,
        worker=IngestWorker,
        init=(str(folder), plan.fingerprint, data.model_dump(mode="json"), config[MADE_WITH]),
        recover=recover_part,
        finish=finish,
        title="ingest",
        item="files",
        seconds=lambda: len(videos) * _PROBE_ESTIMATE,
        splits=Counter(video.split for video in videos),
    )


def read_manifest_parts(folder: Path, names: list[str], columns: list[str] | None = None) -> pa.Table:
    """All rows of a manifest in plan order (`schemas.clips.CLIPS`), or some columns of them."""
    schema = CLIPS if columns is None else pa.schema([CLIPS.field(name) for name in columns])
    return pa.concat_tables([read_table(folder / name, columns=columns, schema=schema) for name in names])


class Messages:
    """What a worker needs to know of some videos, made one by one: as dicts a million of them would be 2 GB."""

    def __init__(self, videos: list[SourceVideo], root: Path) -> None:
        self.videos, self.root = videos, root

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (_message(video, self.root, look=False) for video in self.videos)


def _message(video: SourceVideo, root: Path, *, look: bool = True) -> dict[str, Any]:
    """What a worker needs to know of a video; if it is to be looked at, its file's size, too; and its companions'."""
    size = None
    if look and video.medium is None:
        try:
            size = video.path.stat().st_size
        except OSError:
            size = -1  # the probe will say why
    message = {**video._asdict(), "path": str(video.path), "bytes": size}
    if video.companions:
        message["companion_bytes"] = companion_size(root / split_address(a)[0] for a in video.companions.values())
    return message


def _classes(table: pa.Table) -> list[str]:
    """Class names in label order; empty where clips have no labels."""
    pairs = {
        (label, name)
        for some in table.select(["label", "class_name"]).to_batches(max_chunksize=SLICE_ROWS)
        for label, name in zip(some["label"].to_pylist(), some["class_name"].to_pylist(), strict=True)
        if label is not None
    }
    if not pairs:
        return []
    names = {label: name or str(label) for label, name in pairs}
    return [names.get(label, "") for label in range(max(names) + 1)]


def _say_tilted(table: pa.Table) -> None:
    """Names videos whose display matrix asks for another angle than a right one: they are turned by the nearest."""
    rows = table.select(["source", "tilt", "rotation"]).filter(table["tilt"].is_valid()).to_pylist()
    tilted = {row["source"]: row for row in rows}
    if tilted:
        name, row = next(iter(tilted.items()))
        console.note(
            f"{console.count(len(tilted), 'videos')} to be turned by other angles than right ones: the nearest counts, "
            f"e.g. for {name} {row['rotation']} for {row['rotation'] + row['tilt']:g} degrees"
        )


def _nothing_left(recipe: Recipe, rejects: list[dict[str, Any]]) -> UsageError:
    reasons: dict[str, int] = {}
    for reject in rejects:
        reasons[reject["reason"]] = reasons.get(reject["reason"], 0) + 1
    if set(reasons) == {"too_short"}:
        details = max(rejects, key=lambda r: r["detail"])["detail"]
        what, more = ("shot", ", or raise data.scene_threshold") if recipe.data.scene_threshold else ("video", "")
        return UsageError(
            f"a clip of {recipe.data.num_frames} frames is longer than every {what} ({details})",
            at=recipe.data.root,
            hint=f"lower data.num_frames or data.frame_stride, or raise data.frame_rate{more}",
        )
    listed = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    first = "; ".join(f"{reject['source']}: {reject['detail']}" for reject in rejects[:_EXAMPLES])
    return UsageError(
        f"no clip could be planned from any of the {len({r['source'] for r in rejects})} files ({listed})",
        at=recipe.data.root,
        hint=f"for example {first}",
    )


class IngestWorker:
    """Probes files in a disposable child and plans their clips."""

    def __init__(self, folder: str, plan: str, data: dict[str, Any], programs: dict[str, Any]) -> None:
        must_be_same(programs)
        self.folder, self.plan = as_path(folder), plan
        self.data = DataConfig.model_validate(data)
        self.child = DecodeChild()
        self.clock = Stopwatch()

    def make(self, name: str, payload: Iterable[dict[str, Any]]) -> Part:
        """Writes one part of the manifest."""
        rejects: list[dict[str, Any]] = []
        metadata = {"plan": self.plan, "split": "all", "rejects": rejects}
        rows = (row for video in payload for row in self._rows(video, rejects))
        return write_part_slices(self.folder / name, self._slices(rows), CLIPS, metadata, point=f"clips:{name}")

    def _slices(self, rows: Iterator[dict[str, Any]]) -> Iterator[pa.Table]:
        """The rows in tables of bounded size: as a dict a row takes 2 KB, and a video can have two million."""
        while some := list(itertools.islice(rows, SLICE_ROWS)):
            with self.clock.phase("write"):
                table = pa.Table.from_pylist(some, schema=CLIPS)
            del some
            yield table

    def _rows(self, video: dict[str, Any], rejects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Manifest rows of a video's clips; what is rejected is appended."""
        try:
            rows, dropped = self._clips(video)
        except VideoError as error:
            rejects.append(reject_row("clips", video["source"], None, error.reason, error.detail))
            return
        rejects += dropped
        yield from rows

    def _clips(self, video: dict[str, Any]) -> tuple[Iterator[dict[str, Any]], list[dict[str, Any]]]:
        """Manifest rows of a video's clips, and rejects of those that the filters dropped."""
        if video["reject"] is not None:
            raise VideoError(*video["reject"])
        with self.clock.phase("fetch"), local_copy(video["path"]) as local:
            return self._plan(video, str(local))

    def _probe(self, path: str, size: int, address: dict[str, Any]) -> Probed:
        """Once more after a lack of memory: it may have been the machine's."""
        seconds = _PROBE_SECONDS + max(0, size) / _PACKET_BYTES
        try:
            return self.child.probe(path, cpu_seconds=seconds, source=address)
        except VideoError as error:
            if error.reason != "memory":
                raise
            return self.child.probe(path, cpu_seconds=seconds, source=address)

    def _plan(self, video: dict[str, Any], path: str) -> tuple[Iterator[dict[str, Any]], list[dict[str, Any]]]:
        address = {"medium": video["medium"], "item": video["item"], "source_fps": video["fps"] or self.data.source_fps}
        with self.clock.phase("probe"):
            facts, size = self._probe(path, video["bytes"] or 0, address)
        companions = video["companions"]
        common = {
            "source": video["source"],
            "medium": video["medium"],
            "item": video["item"],
            "companions": json.dumps(companions, sort_keys=True) if companions else None,
            "source_bytes": size,
            "source_sha256": None,
            "companion_bytes": video.get("companion_bytes"),
            "companions_sha256": None,
            **{name: value for name, value in facts._asdict().items() if name not in FOR_PLANNING},
            "split": video["split"],
            "label": video["label"],
            "class_name": video["class_name"],
            "caption": video["caption"],
            "bbox": scale_box(video["bbox"], video["bbox_size"], facts.width, facts.height),
        }
        affordable = affordable_frames(facts, size, self.data.max_pixels_per_byte)
        dropped: dict[ClipSpan, tuple[Reason, str]] = {}
        over: list[dict[str, Any]] = []
        spans: Iterator[ClipSpan]
        if not self.data.looks_at_frames:
            spans = iter_clips(facts, self.data, video["span"])
            if facts.frames > affordable:
                within, total = _count_within(spans, facts, affordable)
                spans = itertools.islice(iter_clips(facts, self.data, video["span"]), within)
                why = _over(facts, size, affordable, f"{total - within} of {total} clips lie beyond")
                if not within:
                    raise VideoError("over_budget", why)
                if within < total:
                    over = [reject_row("clips", video["source"], None, "over_budget", why)]
        else:
            if facts.frames > affordable:
                raise VideoError("over_budget", _over(facts, size, affordable, "the filters look at frames beyond"))
            crop = self.data.letterbox == "crop" and common["bbox"] is None
            with self.clock.phase("analyse"):
                analysis = self.child.analyse(
                    path, facts, size=size, bars=crop, cpu_seconds=_ANALYSIS_SECONDS, source=address
                )
            if analysis.picture is not None:
                common["bbox"] = list(analysis.picture)
            passed, dropped = plan_filtered(facts, self.data, video["span"], analysis)
            spans = iter(passed)
        source = video["source"]
        return (
            ({"clip_id": clip_id(source, span), **common, **span._asdict()} for span in spans),
            [*over, *(reject_row("clips", source, clip_id(source, span), *why) for span, why in dropped.items())],
        )


def _count_within(spans: Iterator[ClipSpan], facts: StreamFacts, frames: int) -> tuple[int, int]:
    """How many clips, in the order of their starts, need only the first `frames` frames; and how many there are."""
    within = total = 0
    for span in spans:
        total += 1
        if span.start_frame is None or span.frame_stride is None:
            last = span.end_time * facts.fps  # or about that
        else:
            last = span.start_frame + (span.num_frames - 1) * span.frame_stride
        within += last < frames
    return within, total


def _over(facts: StreamFacts, size: int, affordable: int, what: str) -> str:
    return f"{what} frame {affordable}: frames of {facts.width}x{facts.height} in a file of {size} bytes"


def plan_filtered(
    facts: StreamFacts, config: DataConfig, part: tuple[float, float] | None, analysis: Analysis
) -> tuple[list[ClipSpan], dict[ClipSpan, tuple[Reason, str]]]:
    """The clips of a video that was looked at, and those that the filters drop, with reason and detail.

    `max_clips_per_video` counts clips that pass.

    Raises:
        VideoError: too_short for one clip, in every shot.
    """
    segments = shots(analysis, config.scene_threshold, facts) if config.scene_threshold else None
    windows = plan_windows(facts, config, part, segments)
    verdicts = {span: judge(span, analysis, config) for span in windows}
    dropped = {span: verdict for span, verdict in verdicts.items() if verdict is not None}
    return limit_clips([span for span in windows if span not in dropped], config), dropped
