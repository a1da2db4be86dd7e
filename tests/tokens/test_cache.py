"""The node's cache: laid out once, by whoever comes first, bounded, and of no consequence when it is lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from tests.tokens.making import codes_of_clip, make_store
from vtok.tokens import flat
from vtok.tokens.cache import FlatCache
from vtok.tokens.loader import TokenBatches, TokenLoader
from vtok.tokens.store import TokenStore

SIZES = [5, 3, 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_store(tmp_path / "tokens", {"train": SIZES})


def loader_of(folder: Path, cache: Path, **options: object) -> TokenLoader:
    return TokenLoader(TokenStore(folder), "train", 4, **{"seed": 0, "cache": cache, **options})  # type: ignore[arg-type]


def cache_of(folder: Path, cache: Path) -> FlatCache:
    return TokenBatches(TokenStore(folder), "train", 4, seed=0, cache=cache).cache


def check(loader: TokenLoader) -> None:
    """An epoch is as it was written."""
    seen = set()
    for batch in loader:
        for codes, label in zip(batch.codes_bthw, batch.labels_b.tolist(), strict=True):
            assert np.array_equal(codes.reshape(-1), codes_of_clip(label, loader.source.stores[0].codebook_size))
            seen.add(label)
    assert len(seen) == sum(SIZES)


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_it_is_made_once_and_found_again(folder: Path, tmp_path: Path) -> None:
    first, again = (loader_of(folder, tmp_path / "cache") for _ in range(2))
    check(first)
    check(again)
    assert (first.source.cache.built, again.source.cache.built) == (3, 0)
    assert len(names(tmp_path / "cache")) == 3
    elsewhere = Path(str(folder) + "-copy")
    make_store(elsewhere, {"train": SIZES})
    same_parts = [part["sha256"] for part in TokenStore(elsewhere).parts]
    assert same_parts == [part["sha256"] for part in TokenStore(folder).parts]
    copy = loader_of(elsewhere, tmp_path / "cache")
    check(copy)
    assert copy.source.cache.built == 0, "equal parts are laid out once, wherever they lie"


def test_another_store_in_the_same_place_is_not_mistaken_for_the_old_one(folder: Path, tmp_path: Path) -> None:
    check(loader_of(folder, tmp_path / "cache"))
    import shutil

    shutil.rmtree(folder)
    make_store(folder, {"train": SIZES}, codebook_size=4096)
    check(loader_of(folder, tmp_path / "cache"))


_BUILD = """
import sys
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import TokenStore
from pathlib import Path
loader = TokenLoader(TokenStore(sys.argv[1]), "train", 4, seed=0, cache=Path(sys.argv[2]))
print(sum(int(batch.codes_bthw.sum()) for batch in loader), loader.source.cache.built)
"""


@pytest.mark.parametrize(
    "point", ["temp_written", pytest.param("before_rename", marks=pytest.mark.soak), "after_rename"]
)
def test_killed_while_it_is_made(folder: Path, tmp_path: Path, point: str) -> None:
    cache, mark = tmp_path / "cache", tmp_path / "mark"
    environment = {**os.environ, "VTOK_CRASH_AT": f"flat:{point}", "VTOK_CRASH_MARK": str(mark)}
    command = [sys.executable, "-c", _BUILD, str(folder), str(cache)]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -9 and mark.exists()
    left = names(cache)
    assert 1 <= len(left) <= 3, "several parts are laid out at a time"
    check(loader_of(folder, cache))
    assert len(names(cache)) == 3 and not [name for name in names(cache) if not name.endswith(".flat")]
    whole = [name for name in left if not name.startswith(".")]
    assert set(whole) <= set(names(cache)) and (whole or point != "after_rename")


def _build(folder: str, cache: str, barrier: object, answers: object) -> None:
    loader = loader_of(Path(folder), Path(cache))
    barrier.wait()  # type: ignore[attr-defined]
    check(loader)
    answers.put(loader.source.cache.built)  # type: ignore[attr-defined]


def test_several_processes_at_once_make_it_once(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_build, args=(str(folder), str(tmp_path / "cache"), barrier, answers)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    built = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(built) == 3, "whoever waited takes what another has made"
    assert len(names(tmp_path / "cache")) == 3


def test_what_a_batch_misses_is_laid_out_on_several_cores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtok.tokens.cache.cpu_count", lambda: 4)
    cache, used = cache_of(folder, tmp_path / "cache"), set()
    laid_out = cache._lay_out

    def seen(part: int) -> object:
        used.add(threading.current_thread().name)
        return laid_out(part)

    monkeypatch.setattr(cache, "_lay_out", seen)
    records = cache.records([2, 0, 1, 0], [3, 0, 2, 4])
    assert cache.built == 3 and used and threading.current_thread().name not in used
    alone = cache_of(folder, tmp_path / "other")
    assert records == [alone.records([part], [row])[0] for part, row in ((2, 3), (0, 0), (1, 2), (0, 4))]
    path = TokenStore(folder).folder / TokenStore(folder).parts[1]["path"]
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(IntegrityError, match="sha256"):
        cache_of(folder, tmp_path / "third").records([0, 1, 2], [0, 0, 0])


def test_it_is_bounded(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    size = 0
    for seed in range(3):
        check(loader_of(folder, cache, cache_bytes=2000, seed=seed))
        size = sum(path.stat().st_size for path in cache.rglob("*.flat"))
        assert size <= 2000 + 1500, "a file more than the limit at most"
    assert size > 0
    with pytest.raises(UsageError, match="the codes take 288 bytes, the cache holds 100") as caught:
        loader_of(folder, cache, cache_bytes=100)
    assert "prior.train.cache_gb" in caught.value.hint and "prior.train.order=parts" in caught.value.hint
    check(loader_of(folder, cache, cache_bytes=100, order="parts"))


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(VtokError, match="the cache cannot be used") as caught:
        loader_of(folder, tmp_path / "file").source[0]
    assert "VTOK_CACHE" in caught.value.hint


def test_a_part_of_another_tokenizer_never_gets_in(folder: Path, tmp_path: Path) -> None:
    batches = TokenBatches(TokenStore(folder), "train", 4, seed=0, cache=tmp_path / "cache")
    batches[0]
    altered = TokenStore(folder)
    altered.tokenizer = "b" * 64  # as a damaged card would have it
    with pytest.raises(IntegrityError, match="made by tokenizer aaaaaaaaaaaa with a codebook of 64, the store by bbbb"):
        TokenBatches(altered, "train", 4, seed=0, cache=tmp_path / "cache")[0]


def test_it_travels_to_a_worker_that_is_started_afresh(folder: Path, tmp_path: Path) -> None:
    batches = TokenBatches(TokenStore(folder), "train", 4, seed=0, cache=tmp_path / "cache")
    wanted = batches[1]
    found = pickle.loads(pickle.dumps(batches))[1]  # noqa: S301
    assert np.array_equal(wanted.codes_bthw, found.codes_bthw)


@pytest.mark.parametrize(("codebook_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_width_of_a_code(tmp_path: Path, codebook_size: int, dtype: type) -> None:
    folder = make_store(tmp_path / "tokens", {"train": SIZES}, codebook_size=codebook_size)
    loader = loader_of(folder, tmp_path / "cache")
    check(loader)
    _, row = loader.source.row(3)
    assert row.codes_thw.dtype == dtype and int(row.codes_thw.reshape(-1)[0]) == codebook_size - 1


def test_a_row_that_is_another_one_is_seen(folder: Path, tmp_path: Path) -> None:
    """Offsets and checksums of two rows exchanged, and the head sealed again: no row is taken for another."""
    import google_crc32c

    check(loader_of(folder, tmp_path / "cache"))
    part = next(iter(loader_of(folder, tmp_path / "cache").source.cache.parts))
    path = next(path for path in (tmp_path / "cache").rglob("*.flat") if path.name.startswith(part.sha256))
    data = bytearray(path.read_bytes())
    start = flat._HEAD.size
    bounds = np.frombuffer(bytes(data[start : start + 8 * 6]), "<i8")
    first, second = (bytes(data[bounds[n] : bounds[n + 1]]) for n in (0, 1))
    assert len(first) == len(second)
    data[bounds[0] : bounds[2]] = second + first
    crcs = np.frombuffer(bytes(data[start + 48 : start + 68]), "<u4")[[1, 0, 2, 3, 4]]
    data[start + 48 : start + 68] = crcs.tobytes()
    data[start + 68 : start + 72] = google_crc32c.value(bytes(data[: start + 68])).to_bytes(4, "little")
    path.write_bytes(data)
    loader = loader_of(folder, tmp_path / "cache")
    check(loader)
    assert loader.source.cache.repaired == 1
