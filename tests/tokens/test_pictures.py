"""Rows decoded back to pictures, and encoded again from what they were made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import UsageError
from tests import tiny_run
from vtok.cli import main
from vtok.shards.reader import read_shard
from vtok.tokens.origin import GONE, Origin
from vtok.tokens.preview import choose, decode_rows, write_pictures
from vtok.tokens.reencode import in_sample, reencode, store_tokenizer
from vtok.tokens.store import TokenStore


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder, ("clips", "shards", "tokenizer", "tokens"))
    return folder


def test_choosing_rows(run: Path) -> None:
    store = TokenStore(run / "tokens")
    assert len(choose(store, 64)) == 17 and len(choose(store, 5)) == 5
    assert {row["class_name"] for row in choose(store, 9, class_name="Blink")} == {"Blink"}
    assert [row["clip_id"] for row in choose(store, 2, split="test")] == ["class0/test0_0", "class1/test2_0"]
    (row,) = choose(store, 9, clips=["class1/train4_0"])
    assert row["codes"].shape == (32,)
    for wrong, hint in (
        ({"split": "val"}, "test, train"),
        ({"class_name": "Nod"}, "Blink"),
        ({"clips": ["x"]}, "select clip_id"),
    ):
        with pytest.raises(UsageError) as caught:
            choose(store, 1, **wrong)  # type: ignore[arg-type]
        assert hint in caught.value.hint


def test_pictures_show_the_source_above_what_the_codes_decode_to(run: Path, tmp_path: Path) -> None:
    store = TokenStore(run / "tokens")
    tokenizer = store_tokenizer(store)
    rows = choose(store, 3)
    decoded = decode_rows(tokenizer, Origin(store), rows)
    clips = {clip.clip_id: clip.video_thwc for path in (run / "shards").glob("*.tar") for clip in read_shard(path)}
    for row, each in zip(rows, decoded, strict=True):
        assert each.row is row and np.array_equal(each.source_thwc, clips[row["clip_id"]])
        error = np.mean((each.video_thwc / 255.0 - each.source_thwc / 255.0) ** 2)
        assert each.psnr_db == pytest.approx(-10 * np.log10(error), abs=0.05)
    sheet, gif = write_pictures(tmp_path / "a" / "rows.gif", decoded)
    with Image.open(sheet) as image:
        assert (sheet.suffix, image.size) == (".png", (4 * (96 + 2), 6 * (96 + 14)))
        shown = np.asarray(image.convert("RGB"))[14 : 14 + 96 : 6, :96:6]
        assert np.array_equal(shown, decoded[0].source_thwc[0])
    with Image.open(gif) as image:
        assert (image.n_frames, image.height) == (4, 2 * 96)


def test_without_the_shards_only_the_codes_are_shown(run: Path, tmp_path: Path) -> None:
    store = TokenStore(run / "tokens")
    (each,) = decode_rows(store_tokenizer(store), Origin(store, shards=tmp_path), choose(store, 1))
    assert (each.source_thwc, each.psnr_db, each.problem) == (None, None, GONE)
    sheet, _ = write_pictures(tmp_path / "one.png", [each])
    with Image.open(sheet) as image:
        assert image.height == 96 + 14


def test_the_same_tokenizer_gives_the_same_codes(run: Path) -> None:
    store = TokenStore(run / "tokens")
    seen: list[int] = []
    found = reencode(store, Origin(store), store_tokenizer(store), 1.0, advance=seen.append)
    assert (found.rows, found.equal, found.codes, sum(seen)) == (17, 17, 17 * 32, 17)
    assert not found.mismatches and not found.skipped and not found.notes


def test_other_codes_are_named(run: Path, tmp_path: Path) -> None:
    """A store that says it was made by this tokenizer, from these shards, and was not."""
    from tests.tokens.stores import store_of

    store = TokenStore(run / "tokens")
    rows = {part["path"]: list(store.rows(part["split"])) for part in store.parts}
    changed = rows["train-00000.parquet"][3]
    changed["codes"] = (changed["codes"] + (np.arange(32) < 5)) % 16
    folder = store_of(tmp_path / "tokens", rows, codebook_size=16, tokenizer=store.tokenizer)
    for stage in ("shards", "tokenizer"):
        shutil.copytree(run / stage, tmp_path / stage)
    store = TokenStore(folder)
    found = reencode(store, Origin(store), store_tokenizer(store), 1.0)
    assert (found.equal, found.changed_codes, found.codes) == (16, 5, 17 * 32)
    (one,) = found.mismatches
    assert (one.clip_id, one.part, one.changed_codes) == (changed["clip_id"], "train-00000.parquet", 5)
    assert ["not the ones that the store was made from" in note for note in found.notes] == [True]


def test_the_sample_is_a_function_of_the_ids() -> None:
    ids = [f"clip{n}" for n in range(4000)]
    tenth = {name for name in ids if in_sample(name, "whole", 0.1, 0)}
    assert 300 < len(tenth) < 500
    assert tenth == {name for name in ids if in_sample(name, "whole", 0.1, 0)}
    assert tenth < {name for name in ids if in_sample(name, "whole", 0.2, 0)}
    assert tenth != {name for name in ids if in_sample(name, "whole", 0.1, 1)}
    assert all(in_sample(name, "whole", 1.0, 0) for name in ids)


def test_the_commands(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str | Path, code: int = 0) -> str:
        capfd.readouterr()
        assert main(["tokens", *map(str, arguments)]) == code
        return capfd.readouterr().out

    found = json.loads(said("check", run, "--reencode", "50%", "--json"))
    assert found["sound"] and found["reencode"]["equal"] == found["reencode"]["rows"] > 0
    assert "could not be compared: neither" in said("check", run, "--reencode", "100%", "--shards", tmp_path, code=1)
    for wrong in ("0", "200%", "all"):
        said("check", run, "--reencode", wrong, code=2)
    text = said("preview", run, "--out", tmp_path / "p.png", "--num", "2", "--class", "Blink")
    assert text.count(" dB  class0/") == 2 and (tmp_path / "p.gif").exists()
    said("preview", run, "--out", tmp_path / "p.jpg", code=2)
    store_tokenizer(TokenStore(run / "tokens"))
    other = Path(shutil.copytree(run / "tokens", tmp_path / "copy"))
    assert json.loads(said("diff", run, other, "--json"))["same"]
    page, table = tmp_path / "s.html", tmp_path / "s.parquet"
    assert "class  Blink" in said("stats", run, "--out", page, "--out", table, "--top", "2")
    assert page.exists() and table.exists()
    assert len(json.loads(said("stats", run, "--json"))["rows"]) == 5
    (other / "_vtok.json").unlink()
    shown = said("check", other, code=1)
    assert "the card is missing" in shown and "hint: `vtok tokens repair`" in shown
    assert not json.loads(said("check", other, "--json", code=1))["sound"]
