"""Commands that look: they print for people, and JSON for machines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests import tiny_run
from tests.pipelines.making import flip
from tests.shards.making import write_manifest
from vtok.cli import main
from vtok.files import read_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder)
    return folder


def said(capfd: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    capfd.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    return capfd.readouterr().out


def test_status_of_a_run(capfd: pytest.CaptureFixture[str], finished: Path) -> None:
    text = said(capfd, "status", finished)
    for stage in tiny_run.STAGES:
        assert any(line.startswith(stage) and "complete" in line for line in text.splitlines())
    assert text.splitlines()[-1] == "next: vtok evaluate"
    found = json.loads(said(capfd, "status", finished, "--json"))
    assert [item["kind"] for item in found] == list(tiny_run.STAGES)
    assert {item["state"] for item in found} == {"complete"}
    by_kind = {item["kind"]: item for item in found}
    assert by_kind["shards"]["inputs"]["clips"] == by_kind["clips"]["fingerprint"]


def test_status_of_an_unfinished_artefact(capfd: pytest.CaptureFixture[str], finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "shards", tmp_path / "shards"))
    (folder / "_vtok.json").unlink()
    (folder / "train-00000.tar").unlink()
    found = json.loads(said(capfd, "status", folder, "--json"))
    assert found[0]["state"] == "unfinished: 1 of 2 parts" and found[0]["next"] == "vtok data shard"
    assert "unfinished: 1 of 2 parts" in said(capfd, "data", "info", folder)


def test_data_info(capfd: pytest.CaptureFixture[str], finished: Path) -> None:
    text = said(capfd, "data", "info", finished / "clips")
    assert "clips in" in text and "complete" in text and "part-00000.parquet" in text
    assert "unreadable" in text and "no <moov> atom" in text
    found = json.loads(said(capfd, "data", "info", finished / "clips", "--json"))
    assert found["kind"] == "clips" and found["counts"]["rejects"] == 2
    assert {row["reason"] for row in found["rejects"]} == {"unreadable", "empty"}
    for stage in tiny_run.STAGES:
        assert json.loads(said(capfd, "data", "info", finished / stage, "--json"))["kind"] == stage
        assert said(capfd, "data", "info", finished / stage)


def test_data_check(capfd: pytest.CaptureFixture[str], finished: Path, tmp_path: Path) -> None:
    text = said(capfd, "data", "check", finished)
    assert text.splitlines() == [
        f"clips in {finished}/clips: sound: 18 clips in 1 part, 2 rejects (every byte and every clip)",
        f"shards in {finished}/shards: sound: 17 clips in 2 parts, 1 reject (every byte and every clip)",
        "next: vtok train tokenizer",
    ]
    assert "hashes compared, nothing decoded" in said(capfd, "data", "check", "--fast", finished / "shards")
    folder = Path(shutil.copytree(finished / "shards", tmp_path / "shards"))
    flip(folder / "test-00000.tar")
    text = said(capfd, "data", "check", folder, code=1)
    assert "damaged" in text and "test-00000.tar: " in text and "hint: delete it and _vtok.json" in text
    (found,) = json.loads(said(capfd, "data", "check", folder, "--json", "--fast", code=1))
    assert (found["kind"], found["sound"], len(found["problems"])) == ("shards", False, 1)
    said(capfd, "data", "check", finished / "tokens", code=2)


def test_data_check_names_equal_files(capfd: pytest.CaptureFixture[str], finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "shards", tmp_path / "shards"))
    rows = read_table(folder / "_clips.table").to_pylist()
    rows = [{**row, "source_sha256": "0" * 64} if row["source"].startswith("class0/t") else row for row in rows]
    write_manifest(folder, rows)
    text = said(capfd, "data", "check", folder, "--fast")
    assert "equal files LEAK across test, train: class0/test0.avi, class0/test1.avi" in text


def test_data_preview(capfd: pytest.CaptureFixture[str], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "sheet.png"
    text = said(capfd, "data", "preview", finished, "--out", out, "--clips", "3", "--split", "test")
    assert text.startswith(f"3 clips in {out} (") and out.read_bytes()[:4] == b"\x89PNG"
    said(capfd, "data", "preview", finished, "--split", "val", code=2)


def test_data_sql(capfd: pytest.CaptureFixture[str], finished: Path) -> None:
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    query = "select split, count(*) as clips, avg(duration) as seconds from clips group by split order by split"
    assert said(capfd, "data", "sql", query, finished).splitlines() == [
        "split  clips  seconds",
        "-----  -----  -------",
        "test       6      0.5",
        "train     11      0.5",
    ]
    assert json.loads(said(capfd, "data", "sql", query, finished, "--json", "--limit", "1")) == [
        {"split": "test", "clips": 6, "seconds": 0.5}
    ]
    assert main(["data", "sql", "select nosuch from clips", str(finished)]) == 2
    shown = capfd.readouterr().err
    assert "error: DuckDB: " in shown and "nosuch" in shown and "hint:  the views are clips, rejects, parts" in shown


@pytest.mark.parametrize("noun", ["data", "tokens"])
def test_sql_with_the_folder_first(capfd: pytest.CaptureFixture[str], finished: Path, noun: str) -> None:
    assert main([noun, "sql", str(finished), "SELECT 1"]) == 2
    shown = capfd.readouterr().err
    assert "error: the query comes first, then the folder\n" in shown
    assert f'hint:  sql "SELECT 1" {finished}\n' in shown


def test_tokens_info_and_check(capfd: pytest.CaptureFixture[str], finished: Path) -> None:
    found = json.loads(said(capfd, "tokens", "info", finished / "tokens", "--json"))
    assert (found["clips"], found["tokens"], found["codebook_size"]) == (17, 17 * 32, 16)
    assert "perplexity" in said(capfd, "tokens", "info", finished), "a run stands for its store"
    assert said(capfd, "tokens", "check", finished / "tokens").startswith("sound: 17 rows in 2 parts")


def test_recipes(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = said(capfd, "recipes")
    assert "demo " in text and text.splitlines()[-1].startswith("next: ")
    printed = said(capfd, "recipes", "demo")
    assert yaml.safe_load(printed)["name"] == "demo"
    assert main(["recipes", "dmo"]) == 2


def test_config_show(capfd: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(said(capfd, "config", "show", "demo", "data.num_frames=16"))
    assert shown["data"]["num_frames"] == 16
    assert shown["cluster"]["retries"] == 3, "defaults are shown"
    from schemas.config import Recipe

    assert Recipe.model_validate(shown).plain() == shown


def test_config_schema(capfd: pytest.CaptureFixture[str]) -> None:
    text = said(capfd, "config", "schema")
    for key in ("out: str (required)", "data.num_frames: int (default 16)", "tokenizer.train.generator"):
        assert key in text
    part = said(capfd, "config", "schema", "tokenizer.model")
    for kind, codes in (("vqgan", 16384), ("vqvae", 2048)):
        assert f"tokenizer.model.kind: {kind}" in part and f"tokenizer.model.n_codes: int (default {codes})" in part
    assert "data." not in part
    schema = json.loads(said(capfd, "config", "schema", "--json"))
    assert {"out", "data", "shards", "tokenizer"} <= schema["properties"].keys()
    assert main(["config", "schema", "tokenizer.modle"]) == 2


def test_doctor(capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = main(["doctor", "--json"])
    found = {item["name"]: item for item in json.loads(capfd.readouterr().out)}
    assert {"python", "packages", "torch", "ffmpeg", "ray", "disk"} <= found.keys()
    assert code == (1 if any(item["level"] == "FAIL" for item in found.values()) else 0)
    assert all(item["hint"] for item in found.values() if item["level"] == "FAIL")
    assert found["packages"]["level"] == "OK"


def test_help_reads_as_the_workflow(capfd: pytest.CaptureFixture[str]) -> None:
    words = [line.strip("│ ").split(" ")[0] for line in said(capfd, "--help").splitlines()]
    workflow = ["demo", "data", "train", "tokenize", "sample", "evaluate", "report"]
    assert [word for word in words if word in workflow] == workflow
