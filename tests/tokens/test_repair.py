"""A damaged store: what is intact stays, what is lost is named and can be made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.tokenize_clips import tokenize
from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME
from schemas.config import Recipe
from schemas.errors import EXIT_DONE, EXIT_FAILED, IntegrityError, UsageError
from tests import tiny_run
from tests.pipelines import here
from tests.pipelines.here import PoolHere
from tests.pipelines.making import digests, flip
from vtok.cli import main
from vtok.tokens.repair import ASIDE, repair
from vtok.tokens.store import TokenStore

TEST, TRAIN = "test-00000.parquet", "train-00000.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_run.make_run(tmp_path_factory.mktemp("repair") / "run", ("clips", "shards", "tokenizer", "tokens"))


@pytest.fixture
def run(whole: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    here.use(monkeypatch)
    shutil.copytree(whole.out, tmp_path / "run")
    return whole.model_copy(update={"out": str(tmp_path / "run")})


def test_a_whole_store_is_left_alone(whole: Recipe, run: Recipe) -> None:
    done = repair(run.folder("tokens"))
    assert done.complete and done.rebuilt == [] and sorted(done.sound) == [TEST, TRAIN]
    assert digests(run.folder("tokens")) == digests(whole.folder("tokens"))


@pytest.mark.parametrize(
    "lost", [(CARD_NAME,), (INDEX_NAME,), (REJECTS_NAME,), (CARD_NAME, INDEX_NAME, REJECTS_NAME), (PLAN_NAME,)]
)
@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_what_the_parts_tell_is_made_again(whole: Recipe, run: Recipe, lost: tuple[str, ...], damage: str) -> None:
    for name in lost:
        path = run.folder("tokens") / name
        flip(path, 0.02) if damage == "flipped" else path.unlink()
    done = repair(run.folder("tokens"))
    assert done.complete and done.rebuilt and not done.damaged and not done.missing
    assert digests(run.folder("tokens")) == digests(whole.folder("tokens"))


@pytest.mark.parametrize("with_card", [True, False])
def test_lost_parts_are_made_again_and_no_others(
    whole: Recipe, run: Recipe, with_card: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.folder("tokens")
    flip(folder / TRAIN, 0.4)
    damaged = (folder / TRAIN).read_bytes()
    if not with_card:
        (folder / CARD_NAME).unlink()
    assert main(["tokens", "repair", str(folder)]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert f"damaged: {TRAIN}: " in said and f"moved to {folder / ASIDE}" in said
    assert "makes 1 part and seals the store" in said and said.endswith("next: vtok tokenize RECIPE\n")
    assert (folder / ASIDE / TRAIN).read_bytes() == damaged
    assert not (folder / CARD_NAME).exists()
    with pytest.raises(UsageError, match="not finished"):
        TokenStore(folder)
    tokenize(run)
    assert PoolHere.made == [TRAIN]
    shutil.rmtree(folder / ASIDE)
    assert digests(folder) == digests(whole.folder("tokens"))


def test_a_missing_part_is_named(run: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.folder("tokens")
    (folder / TEST).unlink()
    assert main(["tokens", "repair", str(folder), "--json"]) == EXIT_FAILED
    done = json.loads(capsys.readouterr().out)
    assert done == {"sound": [TRAIN], "damaged": {}, "missing": [TEST], "rebuilt": [], "complete": False}
    tokenize(run)
    assert main(["tokens", "repair", str(folder)]) == EXIT_DONE
    assert "the store is whole" in capsys.readouterr().out


def test_parts_damaged_twice_lie_beside_each_other(run: Recipe) -> None:
    folder = run.folder("tokens")
    for _ in range(2):
        flip(folder / TEST, 0.5)
        repair(folder)
        tokenize(run)
    assert sorted(path.name for path in (folder / ASIDE).iterdir()) == [TEST, f"{TEST}.1"]


def test_parts_of_another_store_are_no_parts(run: Recipe, tmp_path: Path) -> None:
    folder = run.folder("tokens")
    shutil.copyfile(folder / TEST, folder / TRAIN)
    assert "not the part that the index names" in repair(folder).damaged[TRAIN]
    shutil.copyfile(folder / TEST, folder / TRAIN)  # now without an index: only the plan's fingerprint tells
    done = repair(folder)
    assert not done.complete and not done.missing and not (folder / CARD_NAME).exists()
    tokenize(run)
    assert PoolHere.made == [TRAIN] and TokenStore(folder).check() == 17


def test_what_is_no_store_is_refused(run: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this is a shards folder"):
        repair(run.folder("shards"))
    with pytest.raises(UsageError, match="no such folder"):
        repair(tmp_path / "nowhere")
    old = shutil.copytree(Path(__file__).parent / "store_v1", tmp_path / "old")
    with pytest.raises(UsageError, match="an older vtok made this store"):
        repair(old)
    (run.folder("tokens") / PLAN_NAME).unlink()
    (run.folder("tokens") / CARD_NAME).unlink()
    with pytest.raises(IntegrityError, match="plan cannot be read"):
        repair(run.folder("tokens"))
