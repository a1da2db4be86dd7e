"""The whole story at the smallest size: videos in, report out, with the real components."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from schemas.card import Card
from tests.pipelines.making import AT_INGEST, CUT, python, settings
from tests.trainers.making import OPTIM
from vtok import artefacts
from vtok.files import read_table
from vtok.tokens.store import TokenStore

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]
STEPS = 60  # fewer leave a codebook of one code: the batch statistics are not there yet
REJECTING = {"data ingest", "data shard"}


@pytest.fixture(scope="module")
def told(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The run's folder and what `tests.e2e.story` printed."""
    folder = tmp_path_factory.mktemp("story")
    tree = settings(corpus, folder / "run")
    train = {"steps": STEPS, "batch_size": 4, "threads": 1, "log_every": 20, "validate_every": 30}
    tree["tokenizer"] |= {
        "discriminators": {"channels": 4, "layers": 1},
        "loss": {"discriminator_start": 6},
        "train": {**train, "generator": OPTIM, "discriminator": OPTIM, "preview_clips": 2},
    }
    tree["prior"]["train"] = {**train, "optim": {"lr": 1e-2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    done = python("-m", "tests.e2e.story", folder / "recipe.yaml", timeout=800)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder / "run", json.loads(done.stdout)


def test_every_command_ends_as_it_should(told: tuple[Path, dict]) -> None:
    for number, found in enumerate(told[1]["passes"]):
        for name, code in found["codes"].items():
            assert code == (3 if name in REJECTING else 0), f"pass {number}: {name}"


def test_running_everything_again_changes_no_byte(told: tuple[Path, dict]) -> None:
    first, second = (found["digests"] for found in told[1]["passes"])
    assert {name for name in first if second.get(name) != first[name]} == set()
    assert second.keys() == first.keys()
    assert not [name for name in first if ".vtok-tmp-" in name]


def test_fingerprints_chain_and_counts_reconcile(told: tuple[Path, dict]) -> None:
    run = told[0]
    cards: dict[str, Card] = {
        kind: artefacts.load(run / kind, kind)  # type: ignore[arg-type]
        for kind in ("clips", "shards", "tokenizer", "tokens", "prior", "samples", "metrics")
    }
    for kind, inputs in {
        "shards": ["clips"],
        "tokenizer": ["shards"],
        "tokens": ["shards", "tokenizer"],
        "prior": ["tokens"],
        "samples": ["prior"],
    }.items():
        for name in inputs:
            assert cards[kind].inputs[name] == cards[name].fingerprint, f"{kind} from {name}"
    assert cards["prior"].inputs["tokenizer"] == cards["tokenizer"].facts["fingerprint"]
    assert cards["samples"].inputs["tokenizer"] == cards["tokenizer"].facts["fingerprint"]
    clips, shards = cards["clips"].counts, cards["shards"].counts
    assert clips["files"] == clips["files_with_clips"] + clips["rejects"] == 12
    assert shards["planned"] == clips["clips"] == shards["clips"] + shards["rejects"]
    assert cards["tokens"].counts["clips"] == shards["clips"]
    rejected = {row["source"] for kind in ("clips", "shards") for row in artefacts.load_rejects(run / kind).to_pylist()}
    assert rejected == {*AT_INGEST, CUT}


def test_what_came_out(told: tuple[Path, dict]) -> None:
    run = told[0]
    store = TokenStore(run / "tokens")
    assert len(set(store.codes("train").reshape(-1).tolist())) > 1
    samples = read_table(run / "samples" / "part-00000.parquet").to_pylist()
    assert [row["class_name"] for row in samples] == ["Ball", "Slide"]
    assert all((run / "samples" / row["path"]).stat().st_size > 100 for row in samples)
    page = (run / "report.html").read_text()
    assert "<html" in page and len(page) > 20_000
    for word in ("Ball", "Slide", "corrupt" if "corrupt" in page else "missing_frames", "too_short"):
        assert word in page
    steps = [json.loads(line)["step"] for line in (run / "tokenizer" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 20, 30, 40, 60]
