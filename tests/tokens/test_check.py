"""A check names everything that is damaged, and only that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.card import with_checksum
from schemas.errors import UsageError
from tests.tokens.stores import row_of, some_rows, store_of
from vtok.tokens.check import check_store
from vtok.tokens.findings import Damage

TEST, FIRST, SECOND = "test-00000.parquet", "train-00000.parquet", "train-00001.parquet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("stores") / "tokens", some_rows())


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tokens"))


def damaged(folder: Path) -> dict[str, list[Damage]]:
    """The damages by file."""
    out: dict[str, list[Damage]] = {}
    for damage in check_store(folder).damages:
        out.setdefault(damage.at, []).append(damage)
        assert damage.what and damage.hint
    return out


def test_a_sound_store(made: Path) -> None:
    rows: list[int] = []
    found = check_store(made, advance=rows.append)
    assert (found.damages, found.notes, found.doubts) == ([], [], [])
    assert (found.parts, found.row_groups, found.rows, found.read_rows) == (3, 1 + 3 + 2, 18, 18)
    assert rows == [3, 9, 6]


def test_sound_stores_of_other_kinds(tmp_path: Path) -> None:
    ragged = store_of(tmp_path / "ragged", some_rows(lambda number: (1 + number % 3, 2, 2)))
    assert check_store(ragged).damages == []
    assert check_store(store_of(tmp_path / "empty", {FIRST: []})).damages == []


def test_everything_is_named_at_once(folder: Path) -> None:
    """A damaged page, a truncated part, a missing one and a lost card: one check says all of it."""
    _flip_codes(folder / FIRST, group=1)
    (folder / TEST).write_bytes((folder / TEST).read_bytes()[:-50])
    (folder / SECOND).unlink()
    (folder / "_vtok.json").unlink()
    found = check_store(folder)
    by_file: dict[str, list[Damage]] = {}
    for damage in found.damages:
        by_file.setdefault(damage.at, []).append(damage)
    assert by_file.keys() == {"_vtok.json", TEST, FIRST, SECOND}
    (page,) = [damage for damage in by_file[FIRST] if damage.row_group is not None]
    assert (page.row_group, page.rows) == (1, 4) and "codes" in page.what and "clip_id" not in page.what
    assert any("rows can be read" in damage.what and damage.rows == 3 for damage in by_file[TEST])
    assert [(damage.rows, "missing" in damage.what) for damage in by_file[SECOND]] == [(6, True)]
    assert (found.parts, found.damaged_parts, found.rows, found.read_rows) == (3, 3, 18, 5)
    assert (found.row_groups, found.damaged_row_groups) == (3, 1)


def test_swapped_parts(folder: Path) -> None:
    first, second = (folder / name for name in (FIRST, SECOND))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    found = damaged(folder)
    assert found.keys() == {FIRST, SECOND}
    assert f"bytes of {SECOND}" in found[FIRST][0].what and SECOND in found[FIRST][0].hint
    assert f"bytes of {FIRST}" in found[SECOND][0].what


def test_a_part_of_another_store(folder: Path, tmp_path: Path) -> None:
    other = store_of(tmp_path / "other", some_rows(), tokenizer="b" * 64)
    shutil.copy(other / TEST, folder / TEST)
    whats = [damage.what for damage in damaged(folder)[TEST]]
    assert any("tokenizer bbbbbbbbbbbb, the store aaaaaaaaaaaa" in what for what in whats)
    assert any("another plan" in what for what in whats) and any("sha256" in what for what in whats)


def test_a_truncated_footer_or_an_empty_file(folder: Path) -> None:
    good = (folder / SECOND).read_bytes()
    for length in (0, 4, len(good) // 2, len(good) - 1):
        (folder / SECOND).write_bytes(good[:length])
        assert damaged(folder).keys() == {SECOND}


def test_flipped_bits_are_all_seen(folder: Path) -> None:
    good = (folder / TEST).read_bytes()
    for offset in range(0, len(good), 211):
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset % 8)
        (folder / TEST).write_bytes(bytes(bad))
        assert TEST in damaged(folder), f"a flipped bit at {offset} was not seen"


@pytest.mark.parametrize("name", ["_index.table", "_plan.json", "_rejects.table", "_vtok.json"])
def test_each_of_the_other_files(folder: Path, name: str) -> None:
    good = (folder / name).read_bytes()
    (folder / name).unlink()
    assert damaged(folder).keys() == {name}
    (folder / name).write_bytes(good[: len(good) // 2])
    assert damaged(folder).keys() == {name}
    assert check_store(folder).read_rows == 18, "the parts are checked all the same"


def test_a_card_that_counts_wrong(folder: Path) -> None:
    card = json.loads((folder / "_vtok.json").read_text())
    card["counts"] |= {"clips": 17, "tokens": 5}
    (folder / "_vtok.json").write_text(json.dumps(with_checksum(card)))
    found = damaged(folder)["_vtok.json"]
    assert [damage.what for damage in found] == [
        "it counts 17 clips, there are 18",
        "it counts 5 tokens, there are 216",
    ]


def _changed(edit: Callable[[list[dict[str, Any]]], None], folder: Path) -> dict[str, list[Damage]]:
    """What is found in a store whose rows of the second part were written wrong, but sealed all the same."""
    rows = some_rows()
    edit(rows[FIRST])
    return damaged(store_of(folder, rows))


def test_rows_that_cannot_be_true(tmp_path: Path) -> None:
    def split(rows: list[dict[str, Any]]) -> None:
        rows[2]["split"] = rows[3]["split"] = "val"

    def label(rows: list[dict[str, Any]]) -> None:
        rows[5]["label"] = 7

    def class_name(rows: list[dict[str, Any]]) -> None:
        rows[8]["class_name"] = "c1"

    for number, (edit, group, rows, text) in enumerate(
        [
            (split, 0, 2, "the split is not 'train', that of the part (first: clip-0005)"),
            (label, 1, 1, "the label is none of the 3 classes (first: clip-0008)"),
            (class_name, 2, 1, "the class name is not that of the label (first: clip-0011)"),
        ]
    ):
        found = _changed(edit, tmp_path / str(number))
        assert [(d.row_group, d.rows, d.what) for d in found.pop(FIRST)] == [(group, rows, text)]
        assert not found


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    rows = some_rows()
    rows[SECOND].append(row_of(4, "train"))
    rows[SECOND].append({**row_of(5, "train"), "view_id": "flipped"})
    found = damaged(store_of(tmp_path / "tokens", rows))
    (twice,) = [damage for damage in found[FIRST] if "occurs 2 times" in damage.what]
    assert "clip-0004" in twice.what and twice.rows == 1
    assert [damage.what for damage in found[SECOND]] == ["the view is not 'whole', that of the part (first: clip-0005)"]


def test_usage_that_is_not_that_of_the_codes(folder: Path) -> None:
    """Footer and codes disagree although every checksum would hold: only counting tells."""
    from vtok import artefacts
    from vtok.files import read_table
    from vtok.parquet import read_metadata, write_part

    plan, index = artefacts.load_plan(folder), artefacts.load_index(folder).to_pylist()
    metadata = read_metadata(folder / TEST)
    other = read_metadata(folder / SECOND)
    options = {"row_group_size": 4, "use_dictionary": False}
    part = write_part(
        folder / TEST, read_table(folder / TEST), {**metadata, "usage": other["usage"]}, point="", **options
    )
    parts = [artefacts.Part(row["path"], row["split"], row["rows"], row["bytes"], row["sha256"]) for row in index]
    card = artefacts.load(folder, "tokens")
    counts = {key: card.counts[key] for key in ("clips", "tokens", "parts")}
    (folder / "_vtok.json").unlink()
    artefacts.seal(folder, plan, [part, *parts[1:]], counts=counts, facts=card.facts)
    (found,) = damaged(folder)[TEST]
    assert "usage of the codebook" in found.what


def test_pages_without_checksums(folder: Path) -> None:
    table = pq.read_table(folder / TEST)
    metadata = pq.ParquetFile(folder / TEST).metadata.metadata
    pq.write_table(table.replace_schema_metadata(metadata), folder / TEST)
    assert any("no checksums" in damage.what for damage in damaged(folder)[TEST])


def test_strange_files_are_noted(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    found = check_store(folder)
    assert not found.damages and found.notes == ["no part of the store: notes.txt"]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no token store here"):
        check_store(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        check_store(tmp_path / "nowhere")


def _flip_codes(path: Path, group: int) -> None:
    """Damages the last byte of the page of codes of a row group."""
    row_group = pq.ParquetFile(path).metadata.row_group(group)
    names = [row_group.column(i).path_in_schema for i in range(row_group.num_columns)]
    column = row_group.column(names.index("codes.list.element"))
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[column.data_page_offset + column.total_compressed_size - 2] ^= 0xFF
    path.write_bytes(data.tobytes())
