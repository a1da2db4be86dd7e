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

from schemas.errors import VtokError
from tests.tokens.making import make_store
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
    """All that a training run would see of the store."""
    store = TokenStore(folder / "tokens", unchecked=not verify)
    loader = TokenLoader(store, "train", 4, seed=0, verify=verify, cache=folder / "cache")
    batches = [
        (batch.codes_bthw.tolist(), batch.labels_b.tolist(), batch.clip_ids, batch.view_ids, batch.captions)
        for batch in loader
    ]
    return store.tokenizer, store.codebook_size, store.grid, batches


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file, with its kind."""
    for path in sorted((folder / "tokens").iterdir()):
        yield (path.name if path.name.startswith("_") else "part"), path
    for path in sorted((folder / "cache").rglob("*.flat")):
        yield "flat", path


def _outcomes(made: Path, folder: Path, step: int, *, verify: bool = True) -> Counter[tuple[str, str]]:
    """Flips one bit in every `step`-th window of every file, one at a time, and looks at what comes of it."""
    wanted = _everything(made)
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


KINDS = {"part", "flat", "_index.parquet", "_vtok.json", "_plan.json", "_rejects.parquet"}


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])])
def test_a_flipped_bit_never_gives_a_wrong_token(
    made: Path, tmp_path: Path, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = _outcomes(made, tmp_path / "copy", step)
    with capsys.disabled():
        print(f"\nflipped bits, one in every {step} windows of {WINDOW} bytes: {dict(sorted(counts.items()))}")
    assert {kind for kind, _ in counts} == KINDS
    assert {outcome for _, outcome in counts} == {"detected", "identical"}
    assert {outcome for kind, outcome in counts if kind == "part"} == {"detected"}
    assert {outcome for kind, outcome in counts if kind == "flat"} == {"identical"}, "it is made again from its part"


def test_without_verification_the_same_fuzz_finds_wrong_tokens(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    shutil.copytree(made / "tokens", folder / "tokens")
    _everything(folder, verify=False)  # a cache of its own: what was not verified is not taken for what was
    outcomes = set()
    path = max((folder / "cache").rglob("*.flat"), key=lambda path: path.stat().st_size)
    good, wanted = path.read_bytes(), _everything(made)
    for at in range(len(good) - 1, 0, -5):
        bad = bytearray(good)
        bad[at] ^= 4
        path.write_bytes(bytes(bad))
        outcomes.add(_outcome(folder, wanted, verify=False))
        if "wrong" in outcomes:
            return
    pytest.fail(f"only {outcomes}: the fuzz would pass without any verification")


def test_truncation_is_seen(made: Path, tmp_path: Path) -> None:
    wanted = _everything(made)
    counts: Counter[tuple[str, str]] = Counter()
    for kind, original in _files(made):
        data = original.read_bytes()
        for length in sorted({0, 3, 40, len(data) // 3, len(data) - 8, len(data) - 1}):
            folder = tmp_path / "copy"
            shutil.copytree(made, folder)
            if kind == "part":
                shutil.rmtree(folder / "cache")
            (folder / original.relative_to(made)).write_bytes(data[:length])
            counts[kind, _outcome(folder, wanted, verify=True)] += 1
            shutil.rmtree(folder)
    assert {outcome for _, outcome in counts} <= {"detected", "identical"}, counts
    assert {outcome for kind, outcome in counts if kind in ("part", "_index.parquet")} == {"detected"}


def test_a_damaged_cache_is_repaired_and_counted(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    for path in (folder / "cache").rglob("*.flat"):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))
    wanted = _everything(made)
    store = TokenStore(folder / "tokens")
    loader = TokenLoader(store, "train", 4, seed=0, cache=folder / "cache")
    assert [batch.codes_bthw.tolist() for batch in loader] == [codes for codes, *_ in wanted[3]]
    assert loader.source.cache.repaired == loader.source.cache.built == 2
    again = TokenLoader(store, "train", 4, seed=0, cache=folder / "cache")
    list(again)
    assert again.source.cache.repaired == again.source.cache.built == 0
