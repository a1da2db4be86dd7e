"""A flipped bit or a cut anywhere in an export is detected or changes nothing: never another code or fact."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import IntegrityError, VtokError
from tests.tokens.exchange.test_splits import NAMES
from tests.tokens.making import make_store
from vtok.tokens.exchange import hdf5
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.store import TokenStore

WINDOW = 64


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export of each format."""
    folder = tmp_path_factory.mktemp("exports")
    store = TokenStore(make_store(folder / "tokens", {"train": [4], "dev": [2]}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hdf5, "_CHUNK_CODES", 64)  # chunks are stored whole: a megabyte for the first code
        for name in NAMES:
            export_store(store, folder / name, name)
    return folder


def _everything(source: Path, out: Path) -> Any:
    """All that anybody would see of what was imported; the folder is gone again afterwards."""
    try:
        card = import_store(source, out, None, Origin())
        store = TokenStore(out)
        rows = [
            {key: str(value) for key, value in row.items()} for split in store.splits() for row in store.rows(split)
        ]
        return card.facts, card.config, card.counts, store.splits(), rows
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _outcome(source: Path, out: Path, wanted: Any) -> str:
    try:
        found = _everything(source, out)
    except VtokError:
        return "detected"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"
    return "identical" if found == wanted else "wrong"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])])
def test_a_flipped_bit_is_detected_or_changes_nothing(
    exports: Path, tmp_path: Path, name: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(exports / name, tmp_path / "source"))
    wanted, random = _everything(source, tmp_path / "out"), np.random.default_rng(0)
    counts: Counter[str] = Counter()
    kinds = set()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        data = path.read_bytes()
        kinds.add(path.name)
        for window in range(0, len(data), step * WINDOW):
            bad, at = bytearray(data), window + int(random.integers(min(WINDOW, len(data) - window)))
            bad[at] ^= 1 << int(random.integers(8))
            path.write_bytes(bad)
            counts[_outcome(source, tmp_path / "out", wanted)] += 1
        for length in {0, len(data) // 2, len(data) - 1} - {len(data)}:
            path.write_bytes(data[:length])
            counts[f"cut: {_outcome(source, tmp_path / 'out', wanted)}"] += 1
        path.write_bytes(data)
    with capsys.disabled():
        print(f"\nflipped bits in {name}, one in every {step} windows of {WINDOW} bytes: {dict(counts)}")
    assert "vtok.json" in kinds and len(kinds) > 1
    assert counts.keys() <= {"detected", "identical", "cut: detected", "cut: identical"} and counts["detected"]


def test_every_byte_of_the_facts_counts(exports: Path, tmp_path: Path) -> None:
    """Nothing else vouches for them: the tokenizer, the classes, the mode, the grid."""
    source = Path(shutil.copytree(exports / "ds", tmp_path / "source"))
    path, wanted = source / "vtok.json", _everything(source, tmp_path / "out")
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert _outcome(source, tmp_path / "out", wanted) in ("detected", "identical"), data[at - 20 : at + 20]


def test_without_the_checksum_another_fact_would_be_believed(exports: Path, tmp_path: Path) -> None:
    """So exports of before are read, too, and the fuzz above fails where the checksum is not compared."""
    source = Path(shutil.copytree(exports / "ds", tmp_path / "source"))
    path, wanted = source / "vtok.json", _everything(source, tmp_path / "out")
    facts = json.loads(path.read_text())
    assert len(facts.pop("sha256")) == 64
    path.write_text(json.dumps(facts))
    assert _everything(source, tmp_path / "out") == wanted
    for key, other in {"tokenizer": "c" * 64, "mode": "fast", "classes": ["c0", "c1", "c3"]}.items():
        path.write_text(json.dumps({**facts, key: other}))
        assert _outcome(source, tmp_path / "out", wanted) == "wrong"
    for key in ("tokenizer", "splits", "files"):
        path.write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
        with pytest.raises(IntegrityError, match="facts of the export are damaged"):
            import_store(source, tmp_path / "out", None, Origin())
