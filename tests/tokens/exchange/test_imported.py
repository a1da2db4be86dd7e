"""An imported store is a store like any other: it is checked, repaired, and knows who made its sounds' codes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME, with_checksum
from schemas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from tests.pipelines.making import digests, flip
from tests.tokens.making import GRID, TOKENIZER, token_row
from vtok import artefacts
from vtok.audio.stores import audio_of_store, check_audio
from vtok.cli import main
from vtok.files import write_json
from vtok.parquet import read_metadata
from vtok.tokens.check import check_store
from vtok.tokens.exchange import FORMATS, hf
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.repair import ASIDE, repair
from vtok.tokens.store import TokenStore, write_tokens

TEST, TRAIN = "test-00000.parquet", "train-00000.parquet"
SOUND: dict[str, Any] = {
    "fingerprint": "b" * 64,
    "codebook_size": 300,
    "spectrum": {"height": 8, "width": 16},
    "audio_rate": 16000,
    "grid": [1, 2, 3],
}
QUICK = ("hf", "ds")  # one that holds all columns, one that holds none
FORMS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in FORMATS if name != "litdata"]


def two_views(folder: Path, *, sound: dict[str, Any] | None = None) -> TokenStore:
    """A store of two views of seven clips, each in parts of its own, as `vtok tokenize` names them."""
    names = [f"{split}-00000{view}.parquet" for split in ("test", "train") for view in ("", ".half")]
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, {"shards": "0" * 64}, names)
    artefacts.begin(folder, plan)
    random, parts = np.random.default_rng(0), []
    for name in names:
        split, view = name.partition("-")[0], name.split(".")[1] if name.count(".") == 2 else "whole"
        rows = []
        for number in range(3) if split == "test" else range(3, 7):
            silent = sound is None or number == 5
            codes = None if silent else random.integers(0, 300, 6)
            rows.append({**token_row(number, split, 64), "label": number % 3, "view_id": view, "audio_codes": codes})
        parts.append(
            write_tokens(
                folder / name,
                rows,
                tokenizer=TOKENIZER,
                codebook_size=64,
                grid=GRID,
                plan=plan.fingerprint,
                split=split,
                rejects=[],
                row_group_rows=4,
                point="",
                audio=sound,
            )
        )
    facts = {"tokenizer": TOKENIZER, "codebook_size": 64, "grid": list(GRID), "mode": "exact"}
    facts["classes"] = ["c0", "c1", "c2"]
    counts = {"clips": 14, "tokens": 14 * 12, "parts": 4}
    if sound is not None:
        facts |= {"audio": sound, "audio_codebook_size": 300}
        counts["silent"] = 2
    artefacts.seal(folder, plan, parts, counts=counts, facts=facts)
    assert check_store(folder).damages == []
    return TokenStore(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and the store that was imported from it."""
    folder = tmp_path_factory.mktemp("made")
    export_store(two_views(folder / "first", sound=SOUND), folder / "out", "hf")
    import_store(folder / "out", folder / "tokens", None, Origin())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "tokens", tmp_path / "tokens"))


@pytest.mark.parametrize("name", FORMS)
def test_the_sounds_keep_who_made_their_codes(tmp_path: Path, name: str) -> None:
    store = two_views(tmp_path / "first", sound=SOUND)
    export_store(store, tmp_path / "out", name)
    card = import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    back = TokenStore(tmp_path / "back")
    assert audio_of_store(back) == audio_of_store(store) == SOUND
    assert (card.counts["silent"], card.facts["audio_codebook_size"]) == (2, 300)
    assert read_metadata(back.folder / TEST, ("audio",))["audio"] == {**SOUND, "silent": 0}
    assert check_store(back.folder).damages == []
    with pytest.raises(UsageError, match="2 of 14 rows have no codes of sound"):
        check_audio(back, 6, 300, None)
    with pytest.raises(UsageError, match="a sound has 6 codes"):
        check_audio(back, 7, 300, None)
    export_store(back, tmp_path / "again", name)  # and once more
    import_store(tmp_path / "again", tmp_path / "third", None, Origin())
    assert audio_of_store(TokenStore(tmp_path / "third")) == SOUND


def test_views_with_sounds_of_other_grids(tmp_path: Path) -> None:
    """A store whose views have sounds of different grids has none on its card: any number of codes is right."""
    export_store(two_views(tmp_path / "first", sound={**SOUND, "grid": None}), tmp_path / "out", "hf")
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    assert check_store(tmp_path / "back").damages == []


@pytest.mark.parametrize("name", FORMS)
def test_a_check_of_a_store_with_two_views(tmp_path: Path, name: str) -> None:
    export_store(two_views(tmp_path / "first"), tmp_path / "out", name)
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    found = check_store(tmp_path / "back")
    assert (found.damages, found.rows) == ([], 14)


@pytest.mark.parametrize("lost", [(), (CARD_NAME,), (PLAN_NAME,)])
def test_damage_to_an_imported_store_is_mended_by_importing(folder: Path, lost: tuple[str, ...]) -> None:
    flip(folder / TRAIN, 0.4)
    for name in lost:
        (folder / name).unlink()
    damages = {damage.at: damage for damage in check_store(folder).damages}
    assert damages.keys() == {TRAIN, *lost}
    assert "the same `vtok tokens import`" in damages[TRAIN].hint and "tokenize" not in damages[TRAIN].hint


@pytest.mark.parametrize(
    "lost", [(CARD_NAME,), (INDEX_NAME,), (REJECTS_NAME,), (CARD_NAME, INDEX_NAME, REJECTS_NAME), (PLAN_NAME,)]
)
def test_a_repair_makes_card_and_index_again(made: Path, folder: Path, lost: tuple[str, ...]) -> None:
    for name in lost:
        (folder / name).unlink()
    done = repair(folder)
    assert done.complete and done.rebuilt and not done.damaged and not done.missing
    assert digests(folder) == digests(made / "tokens")


def test_a_lost_part_is_imported_again(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(folder / TRAIN, 0.4)
    assert main(["tokens", "repair", str(folder)]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "running `vtok tokens import` again makes 1 part" in said
    assert said.endswith("next: vtok tokens import SOURCE STORE\n")
    with pytest.raises(UsageError, match="not finished") as caught:
        TokenStore(folder)
    assert "vtok tokens import" in caught.value.hint
    import_store(made / "out", folder, None, Origin())
    shutil.rmtree(folder / ASIDE)
    assert digests(folder) == digests(made / "tokens")
    assert main(["tokens", "check", str(folder)]) == EXIT_DONE


def test_a_part_of_another_import_is_no_part(folder: Path, tmp_path: Path) -> None:
    export_store(two_views(tmp_path / "first"), tmp_path / "out", "hf")
    import_store(tmp_path / "out", tmp_path / "other", None, Origin())
    shutil.copy(tmp_path / "other" / TRAIN, folder / TRAIN)
    (folder / CARD_NAME).unlink()
    assert "another plan" in repair(folder).damaged[TRAIN]


def test_an_import_of_before_says_what_to_do(folder: Path) -> None:
    """Its plan does not tell the classes, so a lost card cannot be made again from it."""
    plan = artefacts.load_plan(folder)
    config = {key: value for key, value in plan.config.items() if key not in ("classes", "audio")}
    before = plan.model_copy(update={"config": config})
    write_json(folder / PLAN_NAME, with_checksum(before.model_dump(mode="json")))
    (folder / CARD_NAME).unlink()
    with pytest.raises(UsageError, match="cannot be made again") as caught:
        repair(folder)
    assert "vtok tokens import" in caught.value.hint
    hints = {damage.at: damage.hint for damage in check_store(folder).damages}
    assert hints[CARD_NAME] == "delete the folder, then run the same `vtok tokens import` again"


def test_every_parquet_file_of_an_export_has_the_same_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions only in the last rows: a file of nulls would have a type of its own, which readers refuse to join."""
    monkeypatch.setattr(hf, "_FILE_ROWS", 3)
    folder = tmp_path / "store"
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, {}, [TRAIN])
    artefacts.begin(folder, plan)
    rows = [{**token_row(n, "train", 64), "caption": f"clip {n}" if n >= 6 else None} for n in range(8)]
    facts: dict[str, Any] = {"tokenizer": TOKENIZER, "codebook_size": 64, "grid": GRID}
    common: dict[str, Any] = {"split": "train", "rejects": [], "row_group_rows": 4, "point": ""}
    part = write_tokens(folder / TRAIN, rows, plan=plan.fingerprint, **facts, **common)
    facts |= {"grid": list(GRID), "mode": "exact", "classes": []}
    artefacts.seal(folder, plan, [part], counts={"clips": 8, "tokens": 96, "parts": 1}, facts=facts)
    store = TokenStore(folder)
    export_store(store, tmp_path / "out", "hf")
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out/data").iterdir())]
    assert len(schemas) == 3 and all(schema == store.schema for schema in schemas)
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    assert [row["caption"] for row in TokenStore(tmp_path / "back").rows("train")][5:] == [None, "clip 6", "clip 7"]
