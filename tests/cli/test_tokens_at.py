"""`vtok tokens at` says which clips feed a step."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from tests.tokens.making import make_store, token_row
from tests.tokens.stores import store_of
from tests.tokens.test_versions import sealed
from vtok import artefacts
from vtok.cli import main
from vtok.tokens.loader import Crop, TokenLoader
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


def test_a_store_of_several_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grids = [(2, 4, 3), (4, 2, 3), (3, 2, 5)]
    rows = [{**token_row(n, "train", 64, grids[n % 3]), "view_id": f"view-{n % 3}"} for n in range(30)]
    folder = store_of(tmp_path / "tokens", {"train-00000.parquet": rows})
    asked = ["tokens", "at", str(folder), "--step", "7", "--json"]
    train = {"batch_size": 3, "crop": [2, 2, 3], "views": None}
    for views, given in ((None, []), (["view-2"], ["--view", "view-2"])):
        loader = TokenLoader(TokenStore(folder), "train", 3, seed=7, crop=Crop(2, 2, 3), views=views)
        wanted = [batch.clip_ids for batch in itertools.islice(loader.forever(), 8)][7]
        assert main([*asked, "--seed", "7", "--batch-size", "3", *given]) == 0
        assert [clip["clip_id"] for clip in json.loads(capsys.readouterr().out)["clips"]] == wanted
        shutil.rmtree(tmp_path / "prior", ignore_errors=True)
        plan = artefacts.make_plan("prior", {"seed": 7, "train": {**train, "views": views}}, {}, [])
        artefacts.begin(tmp_path / "prior", plan)
        assert main(asked) == 0
        assert [clip["clip_id"] for clip in json.loads(capsys.readouterr().out)["clips"]] == wanted


def test_a_training_on_crops_of_any_grids_by_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [token_row(n, "train", 64, (2, 2 + n % 2, 3)) for n in range(6)]
    folder = sealed(tmp_path / "tokens", rows, None)
    train = {"batch_size": 3, "crop": [1, 2, 2], "order": "parts", "views": None}
    artefacts.begin(tmp_path / "prior", artefacts.make_plan("prior", {"seed": 7, "train": train}, {}, []))
    for order in ("parts", "rows"):
        loader = TokenLoader(TokenStore(folder), "train", 3, seed=7, order=order, crop=Crop(1, 2, 2))  # type: ignore[arg-type]
        wanted = next(loader.forever()).clip_ids
        asked = ["--order", order] if order == "rows" else []
        assert main(["tokens", "at", str(tmp_path), "--step", "0", "--json", *asked]) == 0
        assert [clip["clip_id"] for clip in json.loads(capsys.readouterr().out)["clips"]] == wanted
