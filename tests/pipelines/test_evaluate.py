from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipelines.evaluate import evaluate
from schemas.card import with_checksum
from schemas.errors import IntegrityError, UsageError
from tests.tiny_run import CLASSES, make_run
from vtok import artefacts
from vtok.cli.evaluate import evaluate as command
from vtok.evaluation import classifier
from vtok.evaluation.protocols import PROTOCOLS
from vtok.evaluation.reconstruction import psnr
from vtok.evaluation.results import CLIPS_TABLE, MEASURES, read_results, shown
from vtok.files import read_table
from vtok.shards.reader import ShardReader
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore
from vtok.video.ranges import to_model_range


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(classifier, "TRAIN_STEPS", 60)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_measures_everything(run: Path) -> None:
    card = evaluate(run)
    rows = {row["name"]: row for row in read_results(run / "metrics")}
    assert list(rows) == list(MEASURES)
    assert card.facts["protocols"] == list(PROTOCOLS) and card.facts["skipped"] == {}
    assert set(card.inputs) == {"shards", "tokenizer", "tokens", "prior", "samples"}
    assert {name: row["samples"] for name, row in rows.items()} == {
        "psnr": 6,
        "psnr_still": 6,
        "psnr_gain": 6,
        "codebook_perplexity": 17,
        "codebook_share": 17,
        "loss": 6,
        "position_entropy": 11,
        "loss_ratio": 6,
        "accuracy_real": 6,
        "accuracy_reconstructed": 6,
        "accuracy_samples": 6,
    }
    for name, row in rows.items():
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"], name
    assert card.facts["logged_validation"] == {"step": 2.0, "loss": pytest.approx(1.1)}


def test_figures_equal_a_direct_computation(run: Path) -> None:
    evaluate(run)
    rows = {row["name"]: row["value"] for row in read_results(run / "metrics")}
    tokenizer = load_tokenizer(run / "tokenizer")
    values = []
    for clip in ShardReader(run / "shards", "test", shuffle=False).clips(0):
        video = torch.from_numpy(to_model_range(clip.video_thwc[None]))
        values.append(float(psnr(tokenizer.decode(tokenizer.encode(video)), video)[0]))
    assert rows["psnr"] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert rows["psnr_gain"] == pytest.approx(rows["psnr"] - rows["psnr_still"])
    assert rows["codebook_perplexity"] == pytest.approx(TokenStore(run / "tokens").summary()["perplexity"], abs=0.01)
    assert rows["codebook_share"] == pytest.approx(rows["codebook_perplexity"] / 16)
    assert rows["loss_ratio"] == pytest.approx(rows["loss"] / 1.5)
    per_clip = read_table(run / "metrics" / CLIPS_TABLE).to_pylist()
    mine = [row["value"] for row in per_clip if row["measure"] == "psnr"]
    assert mine == pytest.approx(values, abs=1e-4)


def test_the_judge_knows_the_real_clips(run: Path) -> None:
    evaluate(run, ["class-accuracy"])
    rows = {row["name"]: row for row in read_results(run / "metrics")}
    assert rows["accuracy_real"]["value"] == 1.0 and rows["accuracy_real"]["low"] < 0.7
    assert len(rows["accuracy_real"]["features"]) == 64
    table = json.loads((run / "metrics" / "confusion.json").read_text())
    assert table["classes"] == CLASSES
    assert table["real"] == [[3, 0], [0, 3]]
    assert [sum(row) for row in table["samples"]] == [3, 3]


def test_again_is_a_no_op_and_equal_bytes(run: Path) -> None:
    first = evaluate(run)
    stamps = {path: path.stat().st_mtime_ns for path in (run / "metrics").iterdir()}
    assert evaluate(run) == first
    assert {path: path.stat().st_mtime_ns for path in (run / "metrics").iterdir()} == stamps
    before = {path.name: path.read_bytes() for path in (run / "metrics").iterdir()}
    shutil.rmtree(run / "metrics")
    torch.set_num_threads(1)
    evaluate(run)
    assert {path.name: path.read_bytes() for path in (run / "metrics").iterdir()} == before


def test_measures_anew_when_more_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    make_run(run, ("clips", "shards", "tokenizer"))
    card = evaluate(run)
    assert card.facts["protocols"] == ["reconstruction"]
    assert card.facts["skipped"]["prior"] == "no finished tokens and no finished prior in the run"
    assert "prior is skipped" in capsys.readouterr().err
    assert [row["name"] for row in read_results(run / "metrics")] == ["psnr", "psnr_still", "psnr_gain"]
    from tests.tiny_run import _MAKERS, recipe

    _MAKERS["tokens"](recipe(run))
    assert evaluate(run).counts["metrics"] == 5
    assert "measuring anew" in capsys.readouterr().err


def test_asked_for_but_not_possible(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, ("clips", "shards"))
    with pytest.raises(UsageError, match="no finished samples"):
        evaluate(run, ["class-accuracy"])
    with pytest.raises(UsageError, match="cannot measure"):
        evaluate(run)
    with pytest.raises(UsageError, match="no protocol fvd"):
        evaluate(run, ["fvd"])
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(tmp_path / "nowhere")
    assert not (run / "metrics").exists()


def test_altered_sample_is_noticed(run: Path) -> None:
    path = run / "samples" / "sample-00003.mp4"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="sha256"):
        evaluate(run, ["class-accuracy"])


def test_altered_table_is_noticed(run: Path) -> None:
    evaluate(run, ["reconstruction"])
    shutil.copy(run / "metrics" / CLIPS_TABLE, run / "metrics" / "metrics.parquet")
    with pytest.raises(IntegrityError):
        read_results(run / "metrics")


def test_foreign_store_is_refused(run: Path) -> None:
    path = run / "tokens" / artefacts.CARD_NAME
    card = json.loads(path.read_text())
    card["facts"]["tokenizer"] = "0" * 64
    path.write_text(json.dumps(with_checksum(card)))
    with pytest.raises(UsageError, match="made by tokenizer"):
        evaluate(run, ["reconstruction"])


def test_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, ["reconstruction"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["metric", "value", "95%", "interval", "clips"]
    assert out[-1] == f"next: vtok report {run}"
    assert len({len(line) for line in out[:6]}) == 1
    assert command(run, ["reconstruction"], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "psnr"


def test_shown() -> None:
    row = {"name": "accuracy_real", "value": 0.5, "low": 0.25, "high": 0.75, "samples": 8}
    assert shown(row) == ("real held-out clips recognised", "50.0%", "25.0 to 75.0")
    assert shown({**row, "name": "psnr", "low": None})[1:] == ("0.50 dB", "")
