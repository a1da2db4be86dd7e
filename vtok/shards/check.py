"""Verifies finished clips and shards offline: every byte, every sample, and that the numbers add up."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.card import CARD_NAME, INDEX_NAME, REJECTS_NAME, Card, Plan
from schemas.clips import CLIPS
from schemas.config.run import STAGE_FOLDERS
from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.shards import MANIFEST_NAME
from vtok import artefacts
from vtok.files import read_table
from vtok.parquet import read_metadata, recover_part
from vtok.sealed import sealed_path
from vtok.shards.codec import decode_extras
from vtok.shards.duplicates import Duplicates, find_duplicates
from vtok.shards.reader import decode_sample, read_samples
from vtok.shards.writer import read_footer, verify_shard
from vtok.video.faults import Doubt, decoding_of, doubts

KINDS = ("clips", "shards")
_SEAL_AGAIN = "delete _vtok.json and run `{command}` again: what is no part is rebuilt from the parts"
_MISSING = "delete _vtok.json and run `{command}` again; only this part is made anew"
_PART_AGAIN = "delete this part and _vtok.json, then run `{command}` again; only this part is made anew"


class Problem(NamedTuple):
    """Something that is damaged.

    Attributes:
        at: file, or file and clip.
        what: what is wrong with it.
        hint: how to mend it.
    """

    at: str
    what: str
    hint: str


class Findings(NamedTuple):
    """What a check found.

    Attributes:
        path: the folder.
        kind: clips or shards.
        parts, clips, rejects: how many there are by the index.
        problems: what is damaged; none: the artefact is sound.
        notes: what is worth knowing and no damage.
        duplicates: sources with equal content, known for shards only.
        doubts: clips that an older revision of the decoding path may have spoilt.
    """

    path: Path
    kind: str
    parts: int
    clips: int
    rejects: int
    problems: list[Problem]
    notes: list[str]
    duplicates: list[Duplicates]
    doubts: list[Doubt]


def check(folder: Path, *, fast: bool = False, advance: Callable[[int], None] = lambda clips: None) -> Findings:
    """Checks a folder of clips or shards.

    Args:
        folder: the artefact.
        fast: compare hashes and counts only, decode no sample.
        advance: called with the number of clips of every part that is done.

    Raises:
        UsageError: no such folder, not clips or shards, or not finished.
    """
    return _Check(folder, fast).run(advance)


class _Check:
    """One check: what is known so far, and the problems."""

    def __init__(self, folder: Path, fast: bool) -> None:
        self.folder, self.fast = folder, fast
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.card: Card | None = None
        self.plan: Plan | None = None
        self.command = ""
        self.clip_ids: list[str] = []  # of the parts, in their order
        self.sources: dict[str, str] = {}  # sha256 by source, as the parts have them
        self.rejects: list[dict[str, Any]] = []  # as the parts have them

    def run(self, advance: Callable[[int], None]) -> Findings:
        with self._noting():
            self.card = artefacts.load(self.folder)
        with self._noting():
            self.plan = artefacts.load_plan(self.folder)
        kind = str(self.card.kind if self.card else self.plan.kind if self.plan else "")
        if kind not in KINDS:
            if not kind:
                return Findings(self.folder, "unknown", 0, 0, 0, self.problems, [], [], [])
            hint = "vtok tokens check" if kind == "tokens" else "vtok status"
            raise UsageError(f"this is a {kind} folder, not clips or shards", at=str(self.folder), hint=hint)
        self.command = artefacts.MADE_BY[kind]
        index = self._index()
        table = self._table(MANIFEST_NAME, CLIPS) if kind == "shards" else None
        manifest = {row["clip_id"]: row for row in table.to_pylist()} if table is not None else None
        sound = True
        for row in index:
            before = len(self.problems)
            with self._noting():
                self._part(kind, row, manifest)
            sound = sound and len(self.problems) == before
            advance(row["rows"])
        if not self.fast and sound and index:
            self._agreement(kind, table)
        self._totals(kind, index, table)
        counts = {key: sum(row[key] for row in index) for key in ("rows", "rejects")}
        copies = find_duplicates(manifest.values()) if manifest else []
        doubtful = self._doubts(kind, index, manifest)
        counted = len(index), counts["rows"], counts["rejects"]
        return Findings(self.folder, kind, *counted, self.problems, self.notes, copies, doubtful)

    def _doubts(
        self, kind: str, index: list[dict[str, Any]], manifest: dict[str, dict[str, Any]] | None
    ) -> list[Doubt]:
        """What an older revision may have spoilt; of clips, their parts are the manifest."""
        found = self.card or self.plan
        if found is None:
            return []
        decoding = decoding_of(kind, found.config)
        if manifest is not None:
            return doubts(manifest.values(), decoding)
        return doubts(self._rows_of_parts(index), decoding)

    def _rows_of_parts(self, index: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in index:
            with contextlib.suppress(VtokError, OSError):  # a problem by now
                yield from read_table(self.folder / row["path"], schema=CLIPS).to_pylist()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Makes a problem of an error; what the user got wrong stays an error."""
        try:
            yield
        except UsageError:
            raise
        except VtokError as error:
            there = isinstance(error, IntegrityError)  # else the file is missing
            hint = (
                error.hint
                if there and error.hint
                else (_PART_AGAIN if there else _MISSING).format(command=self.command)
            )
            self._problem(error.at.removeprefix(f"{self.folder}/"), error.what, hint)

    def _problem(self, at: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(at, what, hint or _SEAL_AGAIN.format(command=self.command)))

    def _index(self) -> list[dict[str, Any]]:
        """The rows of the index. Without one, parts are checked against themselves, and there are no rows."""
        try:
            index = artefacts.load_index(self.folder).to_pylist()
        except VtokError as error:
            if self.card is not None or not self.problems:
                self._problem(INDEX_NAME, error.what)
            for name in self.plan.units if self.plan else []:
                with self._noting():
                    if name.endswith(".tar"):
                        verify_shard(self.folder / name)
                    elif self.plan is not None:
                        recover_part(self.folder / name, self.plan)
            return []
        if self.plan is not None and [row["path"] for row in index] != self.plan.units:
            self._problem(INDEX_NAME, "it does not list the parts that were planned")
        if self.card is not None and self.plan is not None:
            for key in ("kind", "config", "inputs"):
                if getattr(self.card, key) != getattr(self.plan, key):
                    self._problem(CARD_NAME, f"its {key} is not that of the plan")
        return index

    def _table(self, name: str, schema: pa.Schema) -> pa.Table | None:
        try:
            path = self.folder / name if self.card is None else sealed_path(self.folder, self.card, name)
            return read_table(path, schema=schema)
        except VtokError as error:
            self._problem(name, error.what)
            return None

    def _part(self, kind: str, row: dict[str, Any], manifest: dict[str, dict[str, Any]] | None) -> None:
        """Everything about one part: bytes, footer, samples or rows."""
        path = artefacts.verify_part(self.folder, row["path"], row["sha256"])
        if path.stat().st_size != row["bytes"]:
            self._problem(INDEX_NAME, f"{row['path']} has {path.stat().st_size} bytes, not {row['bytes']}")
        if self.fast:
            return
        footer = read_footer(path) if kind == "shards" else read_metadata(path)
        again = _PART_AGAIN.format(command=self.command)
        if self.plan is not None and footer["plan"] != self.plan.fingerprint:
            self._problem(row["path"], "it was made to another plan", again)
        if footer["split"] != row["split"] or len(footer["rejects"]) != row["rejects"]:
            self._problem(row["path"], "its footer and the index differ", again)
        self.rejects += footer["rejects"]
        if kind == "clips":
            ids = read_table(path, schema=CLIPS)["clip_id"].to_pylist()
        else:
            self.sources |= footer["sources"]
            ids = self._samples(path, row, manifest)
        if len(ids) != row["rows"]:
            self._problem(row["path"], f"{len(ids)} clips where the index has {row['rows']}", again)
        self.clip_ids += ids

    def _samples(self, path: Path, row: dict[str, Any], manifest: dict[str, dict[str, Any]] | None) -> list[str]:
        """Decodes every sample of a shard; returns their keys."""
        config = self.card.config if self.card else self.plan.config if self.plan else {}
        shape = (config["num_frames"], config["resolution"], config["resolution"], 3)
        again, ids = _PART_AGAIN.format(command=self.command), []
        for sample in read_samples(path):
            key = sample["__key__"]
            at = f"{path.name}: {key}"
            ids.append(key)
            try:
                clip = decode_sample(sample, path)
                decode_extras(sample)
            except (IntegrityError, ValueError) as error:
                self._problem(at, getattr(error, "what", str(error)), again)
                continue
            if clip.video_thwc.shape != shape:
                self._problem(at, f"its frames are {clip.video_thwc.shape}, planned are {shape}", again)
            if clip.meta.get("clip_id") != key or clip.meta.get("split") != row["split"]:
                self._problem(at, "its metadata are another clip's", again)
            elif manifest is not None and key not in manifest:
                self._problem(at, f"it is not in {MANIFEST_NAME}")
            elif manifest is not None and {name: clip.meta.get(name) for name in CLIPS.names} != manifest[key]:
                self._problem(at, f"its metadata differ from {MANIFEST_NAME}")
        return ids

    def _agreement(self, kind: str, table: pa.Table | None) -> None:
        """Parts, manifest and rejects tell the same story. (Only asked where every part is sound.)"""
        twice = [name for name, number in Counter(self.clip_ids).items() if number > 1]
        if twice:
            self._problem(
                twice[0],
                "this clip id occurs more than once" + (f", like {len(twice) - 1} others" if twice[1:] else ""),
            )
        rejects = self._rejects()
        if rejects is not None and rejects != self.rejects:
            self._problem(REJECTS_NAME, "it does not hold the rejects of the parts")
        if table is None:
            return
        listed = table["clip_id"].to_pylist()
        missing = set(listed) - set(self.clip_ids)
        if missing or len(set(listed)) != len(listed):
            what = f"{len(missing)} of its clips are in no shard" if missing else "it lists clips twice"
            self._problem(MANIFEST_NAME, what)
        pairs = zip(table["source"].to_pylist(), table["source_sha256"].to_pylist(), strict=True)
        if any(self.sources.get(source) != digest for source, digest in pairs):
            self._problem(MANIFEST_NAME, "the sources' sha256 are not those in the shards")

    def _rejects(self) -> list[dict[str, Any]] | None:
        try:
            return artefacts.load_rejects(self.folder).to_pylist()
        except VtokError as error:
            self._problem(REJECTS_NAME, error.what)
            return None

    def _totals(self, kind: str, index: list[dict[str, Any]], table: pa.Table | None) -> None:
        """The card's counts: found = used + rejected, planned = written + rejected."""
        if self.card is None or not index:
            return
        counts, clips, rejected = self.card.counts, sum(r["rows"] for r in index), sum(r["rejects"] for r in index)
        sums = [("clips", clips), ("rejects", rejected), ("bytes", sum(row["bytes"] for row in index))]
        if kind == "clips":
            lost = counts.get("rejected_files", rejected)
            sums.append(("files", counts.get("files_with_clips", 0) + lost))
        else:
            sums += [("planned", clips + rejected), ("shards", len(index))]
            if table is not None and table.num_rows != clips:
                self._problem(MANIFEST_NAME, f"{table.num_rows} clips where the index has {clips}")
            self._against_clips(counts.get("planned", 0))
        for name, number in sums:
            if name in counts and counts[name] != number:
                self._problem(CARD_NAME, f"it counts {counts[name]} {name}, there are {number}")
        if self.fast:
            rejects = self._rejects()
            if rejects is not None and len(rejects) != rejected:
                self._problem(REJECTS_NAME, f"{len(rejects)} rows where the index has {rejected} rejects")

    def _against_clips(self, planned: int) -> None:
        """The clips beside the shards, if they are those that the shards were made from."""
        beside = self.folder.parent / STAGE_FOLDERS["clips"]
        if self.card is None or not (beside / CARD_NAME).exists():
            return
        try:
            clips = artefacts.load(beside, "clips")
        except VtokError:
            return  # a problem of theirs
        if clips.fingerprint != self.card.inputs.get("clips"):
            self.notes.append("the clips beside these shards are not the ones that they were made from")
        elif clips.counts["clips"] != planned:
            self._problem(CARD_NAME, f"{planned} clips planned where {beside.name} has {clips.counts['clips']}")
