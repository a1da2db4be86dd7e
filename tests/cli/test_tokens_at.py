"""`vtok tokens at` says which clips feed a step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.tokens.making import make_store
from vtok import artefacts
from vtok.cli import main
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import TokenStore


def test_it_names_the_clips_that_training_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_store(tmp_path / "tokens", {"train": [9, 5]})
    loader = TokenLoader(TokenStore(folder), "train", 4, seed=7, rank=1, world=2)
    wanted = [batch.clip_ids for batch in itertools.islice(loader.forever(), 6)][5]
    asked = ["tokens", "at", str(folder), "--step", "5", "--rank", "1", "--world", "2"]
    assert main([*asked, "--seed", "7", "--batch-size", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [clip["clip_id"] for clip in found["clips"]] == wanted
    assert (found["epoch"], found["batch"]) == (1, 2)
    plan = artefacts.make_plan("prior", {"seed": 7, "train": {"batch_size": 4}}, {}, [])
    artefacts.begin(tmp_path / "prior", plan)
    for path in (folder, tmp_path):  # the store, or the run that it belongs to
        assert main(["tokens", "at", str(path), *asked[3:]]) == 0
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == "step 5: batch 2 of 3 of epoch 1"
        assert [line.split()[0] for line in lines] == wanted


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_store(tmp_path / "tokens", {"train": [9]})
    assert main(["tokens", "at", str(folder), "--step", "5"]) == 2
    assert "give --batch-size" in capsys.readouterr().err
    assert main(["tokens", "at", str(folder), "--step", "5", "--batch-size", "4", "--rank", "2", "--world", "2"]) == 2
    assert "there is no rank 2 of 2" in capsys.readouterr().err
