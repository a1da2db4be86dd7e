"""Damage of every kind is found and named; what is sound is called sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.card import with_checksum
from schemas.clips import CLIPS, REJECTS
from schemas.config.data import ShardsConfig
from schemas.errors import UsageError
from schemas.shards import INDEX, MANIFEST_NAME
from tests import tiny_run
from tests.pipelines.making import flip
from tests.shards.making import write_manifest
from vtok import artefacts
from vtok.files import read_table, sha256_of, write_json, write_table
from vtok.inspect_folder import data_folders
from vtok.parquet import read_metadata, write_part
from vtok.shards.check import Findings, check
from vtok.shards.codec import encode_clip
from vtok.shards.reader import read_samples
from vtok.shards.writer import read_footer, write_shard


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder, ("clips", "shards"))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / "_vtok.json").read_text())
    change(card)
    write_json(folder / "_vtok.json", with_checksum(card))


def write_again(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Writes a shard with other samples, and seals it as a writer with a mistake would."""
    path, footer = folder / name, read_footer(folder / name)
    samples = []
    for sample in read_samples(path):
        changed = change(dict(sample))
        members = {key: value for key, value in changed.items() if not key.startswith("__")}
        samples.append((changed["__key__"], members))
    size, digest = write_shard(path, samples, footer, point="")
    rows = artefacts.load_index(folder).to_pylist()
    rows = [{**row, "bytes": size, "sha256": digest} if row["path"] == name else row for row in rows]
    write_table(folder / "_index.table", pa.Table.from_pylist(rows, schema=INDEX))
    total = sum(row["bytes"] for row in rows)
    digest = sha256_of(folder / "_index.table")
    edit_card(folder, lambda card: card.update(index_sha256=digest, counts={**card["counts"], "bytes": total}))


def problems(findings: Findings) -> list[tuple[str, str]]:
    assert all(problem.hint for problem in findings.problems)
    return [(problem.at, problem.what) for problem in findings.problems]


def test_sound(finished: Path) -> None:
    assert data_folders(finished) == [finished / "clips", finished / "shards"]
    seen: list[int] = []
    clips, shards = (check(finished / kind, advance=seen.append) for kind in ("clips", "shards"))
    assert problems(clips) == problems(shards) == []
    assert (clips.parts, clips.clips, clips.rejects) == (1, 18, 2)
    assert (shards.parts, shards.clips, shards.rejects) == (2, 17, 1)
    assert seen == [18, 6, 11]
    assert shards.notes == [] and shards.duplicates == []
    assert problems(check(finished / "shards", fast=True)) == []


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("part", "damage", "what"),
    [
        ("shards/train-00000.tar", "flip", "its sha256 differs"),
        ("shards/train-00000.tar", "cut", "its sha256 differs"),
        ("shards/train-00000.tar", "unlink", "missing"),
        ("clips/part-00000.parquet", "flip", "its sha256 differs"),
        ("clips/part-00000.parquet", "unlink", "missing"),
        ("shards/_index.table", "flip", "the index is not the one that the card seals"),
        ("shards/_index.table", "unlink", "the index is missing"),
        ("shards/_rejects.table", "unlink", "no such file"),
        ("shards/_clips.table", "cut", "its sha256 differs from the card"),
        ("shards/_vtok.json", "cut", "the card is damaged"),
        ("shards/_plan.json", "cut", "the plan cannot be read"),
    ],
)
def test_damaged_files(run: Path, part: str, damage: str, what: str, fast: bool) -> None:
    path = run / part
    if damage == "flip":
        flip(path, 0.4)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    else:
        path.unlink()
    found = problems(check(path.parent, fast=fast))
    assert found, "it is noticed"
    assert any(path.name in at and what in text for at, text in found), found
    other = run / ("clips" if path.parent.name == "shards" else "shards")
    assert problems(check(other, fast=fast)) == []


def test_the_parts_are_named_even_without_an_index(run: Path) -> None:
    (run / "shards/_index.table").unlink()
    flip(run / "shards/train-00000.tar", 0.3)
    found = problems(check(run / "shards"))
    assert [at for at, _ in found] == ["_index.table", "train-00000.tar"]


def test_a_sample_of_the_wrong_shape_and_one_that_cannot_be_read(run: Path) -> None:
    folder = run / "shards"

    def change(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "class0/test0_0":
            sample |= encode_clip(np.zeros((3, 16, 16, 3), np.uint8), ShardsConfig(encoding="raw"), 8.0)
        if sample["__key__"] == "class0/test1_0":
            sample["npy.zst"] = sample["npy.zst"][:-9]
        return sample

    write_again(folder, "test-00000.tar", change)
    (first, shape), (second, unreadable) = problems(check(folder))
    assert first == "test-00000.tar: class0/test0_0" and shape == (
        "its frames are (3, 16, 16, 3), planned are (4, 16, 16, 3)"
    )
    assert second == "test-00000.tar: class0/test1_0" and "cannot be read" in unreadable
    assert problems(check(folder, fast=True)) == [], "the hashes are right"


def test_metadata_of_another_clip(run: Path) -> None:
    folder = run / "shards"

    def change(sample: dict[str, Any]) -> dict[str, Any]:
        meta = json.loads(sample["json"])
        if sample["__key__"] == "class0/test0_0":
            meta["clip_id"] = "class1/test0_0"
        if sample["__key__"] == "class0/test1_0":
            meta["label"] = 1
        return {**sample, "json": json.dumps(meta).encode()}

    write_again(folder, "test-00000.tar", change)
    assert problems(check(folder)) == [
        ("test-00000.tar: class0/test0_0", "its metadata are another clip's"),
        ("test-00000.tar: class0/test1_0", "its metadata differ from _clips.table"),
    ]


def test_a_sample_that_the_manifest_does_not_know(run: Path) -> None:
    def change(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] != "class0/test1_0":
            return sample
        meta = {**json.loads(sample["json"]), "clip_id": "class0/new"}
        return {**sample, "__key__": "class0/new", "json": json.dumps(meta).encode()}

    write_again(run / "shards", "test-00000.tar", change)
    assert problems(check(run / "shards")) == [("test-00000.tar: class0/new", "it is not in _clips.table")]


def test_a_clip_id_that_occurs_twice(run: Path) -> None:
    folder = run / "clips"
    rows = read_table(folder / "part-00000.parquet", schema=CLIPS).to_pylist()
    rows[1]["clip_id"] = rows[0]["clip_id"]
    metadata = read_metadata(folder / "part-00000.parquet")
    card = artefacts.load(folder)
    part = write_part(folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=CLIPS), metadata, point="")
    counts = {key: card.counts[key] for key in ("files", "files_with_clips", "clips")}
    artefacts.seal(folder, artefacts.load_plan(folder), [part], counts=counts, facts=card.facts)
    assert problems(check(folder)) == [(rows[0]["clip_id"], "this clip id occurs more than once")]


def test_a_manifest_that_does_not_agree_with_the_parts(run: Path) -> None:
    folder = run / "shards"
    rows = read_table(folder / MANIFEST_NAME, schema=CLIPS).to_pylist()
    rows[0]["source_sha256"] = "1" * 64
    write_manifest(folder, rows)
    ((at, what),) = problems(check(folder))
    assert at.endswith(rows[0]["clip_id"]) and what == "its metadata differ from _clips.table"
    write_manifest(folder, rows[1:])
    found = problems(check(folder, fast=True))
    assert found == [(MANIFEST_NAME, "16 clips where the index has 17")]


def test_counts_that_do_not_add_up(run: Path) -> None:
    edit_card(run / "shards", lambda card: card["counts"].update(planned=20, rejects=0))
    edit_card(run / "clips", lambda card: card["counts"].update(files=25))
    assert problems(check(run / "shards")) == [
        ("_vtok.json", "20 clips planned where clips has 18"),
        ("_vtok.json", "it counts 0 rejects, there are 1"),
        ("_vtok.json", "it counts 20 planned, there are 18"),
    ]
    assert problems(check(run / "clips", fast=True)) == [("_vtok.json", "it counts 25 files, there are 20")]


def test_rejects_that_are_not_those_of_the_parts(run: Path) -> None:
    for name, fast in (("clips", False), ("clips", True), ("shards", False)):
        folder = run / name
        rows = artefacts.load_rejects(folder).to_pylist()
        changed = rows[1:] if fast else [{**rows[0], "reason": "timeout"}, *rows[1:]]
        write_table(folder / "_rejects.table", pa.Table.from_pylist(changed, schema=REJECTS))
        ((at, _),) = problems(check(folder, fast=fast))
        assert at == "_rejects.table"
        write_table(folder / "_rejects.table", pa.Table.from_pylist(rows, schema=REJECTS))


def test_other_clips_beside_the_shards(run: Path) -> None:
    edit_card(run / "clips", lambda card: card.update(config_fingerprint="0" * 64))
    findings = check(run / "shards")
    assert findings.problems == [] and "not the ones that they were made from" in findings.notes[0]


def test_what_cannot_be_checked(run: Path, tmp_path: Path) -> None:
    (run / "shards" / "_vtok.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        check(run / "shards")
    with pytest.raises(UsageError, match="no clips or shards here"):
        data_folders(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        data_folders(tmp_path / "none")
