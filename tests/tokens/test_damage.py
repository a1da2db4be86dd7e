"""A flipped bit or a cut anywhere in a store or its cache is detected, or changes nothing: never a wrong token.

peers.md's probe: flipped bits went unnoticed in WebDataset, MDS, Parquet as it comes, `.ds` and Lance.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import card
from schemas.errors import VtokError
from tests.tokens.making import make_store
from vtok import artefacts, files, parquet
from vtok.tokens import store
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import TokenStore

WINDOW = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and, beside it, the cache of it."""
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "tokens", {"train": [5, 3]})
    _everything(folder)
    return folder


def _everything(folder: Path, *, verify: bool = True) -> Any:
    """All that anybody would see of the store."""
    plan, rejects = artefacts.load_plan(folder / "tokens"), artefacts.load_rejects(folder / "tokens").to_pylist()
    opened = TokenStore(folder / "tokens", unchecked=not verify)
    loader = TokenLoader(opened, "train", 4, seed=0, verify=verify, cache=folder / "cache")
    batches = [
        (
            batch.codes_bthw.tolist(),
            batch.labels_b.tolist(),
            *map(list, (batch.clip_ids, batch.view_ids, batch.captions, batch.windowed_from)),
        )
        for batch in loader
    ]
    rows = [{key: str(value) for key, value in row.items()} for row in opened.rows("train")]
    return plan, rejects, opened.card, opened.parts, opened.usage().tolist(), rows, batches


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file, with its kind."""
    for path in sorted((folder / "tokens").iterdir()):
        yield (path.name if path.name.startswith("_") else "part"), path
    for path in sorted((folder / "cache").rglob("*.flat")):
        yield "flat", path


def _outcomes(made: Path, folder: Path, step: int, *, verify: bool = True) -> Counter[tuple[str, str]]:
    """Flips one bit in every `step`-th window of every file, one at a time, and looks at what comes of it."""
    wanted = _everything(made, verify=verify)
    counts: Counter[tuple[str, str]] = Counter()
    random = np.random.default_rng(0)
    for kind, original in _files(made):
        data = original.read_bytes()
        for window in range(0, len(data), step * WINDOW):
            shutil.copytree(made, folder, dirs_exist_ok=True)
            if kind == "part":
                shutil.rmtree(folder / "cache")  # a part is read when the cache is made of it
            at = window + int(random.integers(min(WINDOW, len(data) - window)))
            bad = bytearray(data)
            bad[at] ^= 1 << int(random.integers(8))
            (folder / original.relative_to(made)).write_bytes(bytes(bad))
            counts[kind, _outcome(folder, wanted, verify)] += 1
            shutil.rmtree(folder)
    return counts


def _outcome(folder: Path, wanted: Any, verify: bool) -> str:
    try:
        found = _everything(folder, verify=verify)
    except VtokError:
        return "detected"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"
    return "identical" if found == wanted else "wrong"


KINDS = {"part", "flat", "_index.table", "_vtok.json", "_plan.json", "_rejects.table"}


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])])
def test_a_flipped_bit_never_gives_a_wrong_token(
    made: Path, tmp_path: Path, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = _outcomes(made, tmp_path / "copy", step)
    with capsys.disabled():
        print(f"\nflipped bits, one in every {step} windows of {WINDOW} bytes: {_told(counts)}")
    assert {kind for kind, _ in counts} == KINDS
    for kind, outcome in counts:
        assert outcome == ("identical" if kind == "flat" else "detected"), "a flat file is made again from its part"


class _Fits(str):
    """A checksum that is equal to any other."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_without_verification_the_same_fuzz_finds_wrong_tokens(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    shutil.copytree(made / "tokens", folder / "tokens")
    for module, name in ((card, "fingerprint"), (artefacts, "sha256_of"), (parquet, "footer_sha256")):
        monkeypatch.setattr(module, name, lambda _: _Fits())
    monkeypatch.setattr(store, "open_parquet", lambda path, **_: files.open_parquet(path))  # checks no page
    counts = _outcomes(folder, tmp_path / "copy", 1, verify=False)
    with capsys.disabled():
        print(f"\nthe same without verification: {_told(counts)}")
    unseen = {kind for kind, outcome in counts if outcome == "wrong"}
    assert unseen >= {"part", "flat", "_vtok.json", "_plan.json"}, "the fuzz would pass without any verification"


def test_without_verification_a_flipped_bit_gives_a_wrong_token(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    shutil.copytree(made / "tokens", folder / "tokens")
    wanted = _everything(folder, verify=False)  # a cache of its own: what was not verified is not taken for what was
    outcomes = set()
    path = max((folder / "cache").rglob("*.flat"), key=lambda path: path.stat().st_size)
    good = path.read_bytes()
    for at in range(len(good) - 1, 0, -5):
        bad = bytearray(good)
        bad[at] ^= 4
        path.write_bytes(bytes(bad))
        outcomes.add(_outcome(folder, wanted, verify=False))
        if "wrong" in outcomes:
            return
    pytest.fail(f"only {outcomes}: the fuzz would pass without any verification")


def _told(counts: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} {outcome} {number}" for (kind, outcome), number in sorted(counts.items()))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])])
def test_truncation_is_seen(made: Path, tmp_path: Path, every: bool, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = _everything(made)
    counts: Counter[tuple[str, str]] = Counter()
    for kind, original in _files(made):
        data = original.read_bytes()
        few = {0, 3, 40, len(data) // 3, len(data) - 8, len(data) - 1}
        for length in sorted({*few, *range(0, len(data), WINDOW)} if every else few):
            folder = tmp_path / "copy"
            shutil.copytree(made, folder)
            if kind == "part":
                shutil.rmtree(folder / "cache")
            (folder / original.relative_to(made)).write_bytes(data[:length])
            counts[kind, _outcome(folder, wanted, verify=True)] += 1
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\ncut off{f', every {WINDOW} bytes' if every else ''}: {_told(counts)}")
    newlines = Counter({(name, "identical"): 1 for name in ("_plan.json", "_vtok.json")})  # the last byte of each
    for kind, outcome in counts - newlines:
        assert outcome == ("identical" if kind == "flat" else "detected")


def test_a_damaged_cache_is_repaired_and_counted(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    for path in (folder / "cache").rglob("*.flat"):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))
    wanted = _everything(made)
    loader = TokenLoader(TokenStore(folder / "tokens"), "train", 4, seed=0, cache=folder / "cache")
    assert [batch.codes_bthw.tolist() for batch in loader] == [codes for codes, *_ in wanted[-1]]
    assert loader.source.cache.repaired == loader.source.cache.built == 2
    again = TokenLoader(TokenStore(folder / "tokens"), "train", 4, seed=0, cache=folder / "cache")
    list(again)
    assert again.source.cache.repaired == again.source.cache.built == 0
