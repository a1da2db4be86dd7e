"""Old stores stay readable, rows may be ragged, and what cannot be verified is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.errors import IntegrityError, UsageError
from schemas.tokens import DEFAULTS
from tests.tokens import version_2
from tests.tokens.making import GRID, TOKENIZER, codes_of_clip, make_store, token_row
from vtok import artefacts
from vtok.artefacts import Part
from vtok.parquet import read_metadata
from vtok.tokens.check import check_store
from vtok.tokens.loader import TokenLoader
from vtok.tokens.parts import write_tokens
from vtok.tokens.store import TokenStore

VERSION_1 = Path(__file__).parent / "store_v1"
"""`make_store` with {"train": [5, 2], "test": [3]}, made when the schema version was 1."""


VERSION_2 = Path(__file__).parent / "store_v2"
"""Made by tests/tokens/version_2.py in November 2026: views, sounds, checksums of card, plan and footers."""
EARLY_VERSION_2 = Path(__file__).parent / "store_v2_early"
"""`make_store` as of VERSION_1, made by the first vtok that wrote version 2: card, plan and footers have no checksums,
and there is no `made_by`."""


def sealed(folder: Path, rows: list[dict[str, Any]], grid: tuple[int, int, int] | None, **options: Any) -> Path:
    """A store of one part."""
    facts = {"tokenizer": TOKENIZER, "codebook_size": 64, "grid": grid and list(grid), "mode": "exact", "classes": []}
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, {}, ["train-00000.parquet"])
    artefacts.begin(folder, plan)
    part = write_tokens(
        folder / "train-00000.parquet",
        rows,
        tokenizer=TOKENIZER,
        codebook_size=64,
        grid=grid,
        plan=plan.fingerprint,
        split="train",
        rejects=[],
        row_group_rows=2,
        point="",
        **options,
    )
    facts["audio_codebook_size"] = options.get("audio_codebook_size", 0)
    artefacts.seal(folder, plan, [part], counts={"clips": len(rows), "tokens": 0, "parts": 1}, facts=facts)
    return folder


def test_a_store_of_version_1_still_reads() -> None:
    store = TokenStore(VERSION_1)
    assert store.card.schema_version == 1
    assert store.check() == 10
    assert (store.tokenizer, store.codebook_size, store.grid) == (TOKENIZER, 64, GRID)
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        for number, row in zip(numbers, store.rows(split), strict=True):
            wanted = {**token_row(number, split, 64), **DEFAULTS}
            assert np.array_equal(row.pop("codes"), wanted.pop("codes"))
            assert row == wanted
    (first, *_) = store.rows("train", ["view_id", "label", "height"])
    assert first == {"view_id": "whole", "label": 0, "height": -1}
    assert np.array_equal(store.codes("test"), [codes_of_clip(n, 64) for n in range(7, 10)])


def test_the_first_stores_of_version_2_still_read() -> None:
    assert artefacts.load_index(EARLY_VERSION_2)["footer_sha256"].null_count == 3
    assert artefacts.load(EARLY_VERSION_2).rejects_sha256 is None
    assert "made_by" not in read_metadata(EARLY_VERSION_2 / "test-00000.parquet")
    assert b'"sha256"' not in (EARLY_VERSION_2 / "_vtok.json").read_bytes()
    store = TokenStore(EARLY_VERSION_2)
    assert store.card.schema_version == 2 and store.check() == 10 and store.usage().sum() == 120
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        for number, row in zip(numbers, store.rows(split), strict=True):
            wanted = token_row(number, split, 64)
            assert np.array_equal(row.pop("codes"), wanted.pop("codes"))
            assert row == wanted


def test_stores_of_version_2_still_read() -> None:
    store = TokenStore(VERSION_2)
    assert store.card.schema_version == 2 and store.check() == 20 and not check_store(VERSION_2).damages
    assert store.grid == GRID and store.views() == {"whole": 10, "mirrored": 10}
    assert (store.card.counts["silent"], store.card.counts["rejects"]) == (2, 1)
    assert artefacts.load_index(VERSION_2)["footer_sha256"].null_count == 0
    for split in ("train", "test"):
        stems = [stem for stem in version_2.CLIPS if stem.startswith(split)]
        expected = [row for stem in stems for view in version_2.VIEWS for row in version_2.rows_of(stem, view)]
        for row, wanted in zip(store.rows(split), expected, strict=True):
            assert np.array_equal(row.pop("codes"), wanted.pop("codes"))
            sound, heard = row.pop("audio_codes"), wanted.pop("audio_codes")
            assert (sound is None) == (heard is None) and np.array_equal(sound, heard)
            assert row == wanted
    loader = TokenLoader(store, "train", 7, seed=0, views=["mirrored"], cond_frames=True, shuffle=False)
    (batch,) = loader
    assert batch.clip_ids == [f"clip-{n:04d}" for n in range(7)] and set(batch.view_ids) == {"mirrored"}
    assert np.array_equal(batch.codes_bthw[3], codes_of_clip(3, 64).reshape(GRID)[:, :, ::-1])


def test_rows_may_have_grids_of_their_own(tmp_path: Path) -> None:
    grids = [(2, 2, 3), (4, 2, 3), (1, 5, 1)]
    rows = [token_row(n, "train", 64, grid) for n, grid in enumerate(grids)]
    store = TokenStore(sealed(tmp_path / "tokens", rows, None))
    assert store.ragged and store.check() == 3
    for row, wanted, grid in zip(store.rows("train"), rows, grids, strict=True):
        assert np.array_equal(row["codes"], wanted["codes"])
        assert (row["grid_t"], row["grid_h"], row["grid_w"]) == grid
    with pytest.raises(UsageError, match="different grids"):
        store.grid  # noqa: B018
    with pytest.raises(UsageError, match="different grids"):
        store.codes("train")


def test_views_frames_and_audio_come_back(tmp_path: Path) -> None:
    frames = np.arange(2 * 16 * 24 * 3, dtype=np.uint8).tobytes()
    views = [
        {"view_id": "whole", "cond_frames": frames, "audio_codes": np.array([0, 70_000])},
        {"view_id": "flip", "flip": True, "cond_frames": None, "audio_codes": None},
        {"view_id": "t4", "cond_frames": frames, "audio_codes": np.array([], np.int64)},
    ]
    rows = [{**token_row(3, "train", 64), **view} for view in views]
    found = list(TokenStore(sealed(tmp_path / "tokens", rows, GRID, audio_codebook_size=70_001)).rows("train"))
    assert [row["view_id"] for row in found] == ["whole", "flip", "t4"]
    assert [row["flip"] for row in found] == [False, True, False]
    assert [row["cond_frames"] for row in found] == [frames, None, frames]
    assert found[1]["audio_codes"] is None
    assert found[0]["audio_codes"].dtype == np.uint32
    assert [found[n]["audio_codes"].tolist() for n in (0, 2)] == [[0, 70_000], []]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.array([-1] * 12)}, "code -1"),
        ({"audio_codes": np.array([1])}, "code 1 in a codebook of 0"),
        ({"codes": np.zeros(11, np.int64)}, "11 codes with a grid of"),
        ({"grid_t": 1, "grid_w": 6}, "12 codes with a grid of"),
        ({"cond_frames": b"12345"}, "5 bytes are no RGB frames of 16 x 24"),
        ({"clip_id": "clip-0000"}, "two rows of clip 'clip-0000', view 'whole'"),
    ],
)
def test_a_row_that_breaks_the_contract_is_never_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [token_row(0, "train", 64), {**token_row(1, "train", 64), **change}]
    with pytest.raises(ValueError, match=message):
        sealed(tmp_path / "tokens", rows, GRID)


def test_pages_without_checksums_are_refused_unless_asked(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "tokens", {"train": [5]})
    path = folder / "train-00000.parquet"
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), file.metadata.metadata
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:  # pyarrow writes none by default
        writer.write_table(table)
        writer.add_key_value_metadata({b"vtok": metadata[b"vtok"]})
    _seal_again(folder, path)
    store = TokenStore(folder)
    for use in (store.check, lambda: list(store.rows("train"))):
        with pytest.raises(IntegrityError, match="no page checksums"):
            use()
    asked = TokenStore(folder, unchecked=True)
    assert asked.check() == 5
    assert np.array_equal(asked.codes("train"), [codes_of_clip(n, 64) for n in range(5)])


def _seal_again(folder: Path, path: Path) -> None:
    data = path.read_bytes()
    plan, card = artefacts.load_plan(folder), artefacts.load(folder)
    part = Part(path.name, "train", 5, len(data), hashlib.sha256(data).hexdigest())
    artefacts.seal(folder, plan, [part], counts={"clips": 5}, facts=card.facts)


def test_the_fixture_is_not_touched(tmp_path: Path) -> None:
    """Reading writes nothing beside the store."""
    copy = Path(shutil.copytree(VERSION_1, tmp_path / "tokens"))
    before = sorted(path.name for path in copy.iterdir())
    TokenStore(copy).check()
    assert sorted(path.name for path in copy.iterdir()) == before
