"""Going out to another format and coming back loses nothing; damage on the way is noticed."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from schemas.errors import IntegrityError, UsageError
from tests.pipelines.making import REPOSITORY
from tests.tokens.making import GRID, TOKENIZER, make_store, token_row
from vtok import artefacts
from vtok.cli import main
from vtok.files import sha256_of
from vtok.parquet import read_metadata
from vtok.tokens.check import check_store
from vtok.tokens.exchange import FORMATS, importing
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.store import TokenStore, write_tokens

SIZES = {"test": [3], "train": [9, 0, 6]}
KNOWN = Origin(TOKENIZER, 64, GRID)


def formats() -> list[Any]:
    here = importlib.util.find_spec("litdata") is not None
    skip = pytest.mark.skipif(not here, reason="litdata is not installed")
    return [pytest.param(name, marks=skip) if name == "litdata" else name for name in FORMATS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(make_store(tmp_path_factory.mktemp("stores") / "tokens", SIZES))


def rows_of(store: TokenStore) -> list[dict[str, Any]]:
    return [{**row, "codes": row["codes"].tolist()} for split in sorted(store.splits()) for row in store.rows(split)]


@pytest.mark.parametrize("name", formats())
def test_there_and_back(store: TokenStore, tmp_path: Path, name: str) -> None:
    counts = export_store(store, tmp_path / "out", name)
    assert counts == {"test": 3, "train": 15}
    card = import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    back = TokenStore(tmp_path / "back")
    assert rows_of(back) == rows_of(store)
    assert (back.tokenizer, back.codebook_size, back.grid, back.classes) == (TOKENIZER, 64, GRID, store.classes)
    assert card.facts["imported_from"] == name
    assert back.check() == 18
    assert import_store(tmp_path / "out", tmp_path / "back", None, Origin()) == card


@pytest.mark.parametrize("name", ["hf", "webdataset", "ds", "hdf5"])
def test_rows_of_many_shapes_with_frames_and_sound(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(0)

    def row(number: int) -> dict[str, Any]:
        size = {"height": 4, "width": 6, "flip": number % 2 == 0, "view_id": f"v{number}", "decoder": "pyav 1"}
        sound = random.integers(0, 300, 5 + number) if number else None
        frames = random.integers(0, 256, (2, 4, 6, 3), np.uint8).tobytes() if number != 1 else None
        grid = (1 + number, 2, 3)
        return {**token_row(number, "train", 64, grid), **size, "cond_frames": frames, "audio_codes": sound}

    folder = tmp_path / "store"
    plan = artefacts.make_plan("tokens", {"mode": "fast"}, {}, ["train-00000.parquet"])
    artefacts.begin(folder, plan)
    facts: dict[str, Any] = {"tokenizer": TOKENIZER, "codebook_size": 64}
    common: dict[str, Any] = {
        "plan": plan.fingerprint,
        "split": "train",
        "rejects": [],
        "row_group_rows": 2,
        "point": "",
    }
    rows = [row(number) for number in range(4)]
    path = folder / "train-00000.parquet"
    part = write_tokens(path, rows, grid=None, mode="fast", audio_codebook_size=300, **facts, **common)
    facts |= {"audio_codebook_size": 300, "grid": None, "mode": "fast", "classes": []}
    artefacts.seal(folder, plan, [part], counts={"clips": 4, "tokens": 60, "parts": 1}, facts=facts)
    store = TokenStore(folder)
    export_store(store, tmp_path / "out", name)
    import_store(tmp_path / "out", tmp_path / "back", None, Origin())
    back = TokenStore(tmp_path / "back")
    assert (
        back.ragged and back.card.facts["mode"] == "fast" == read_metadata(back.folder / "train-00000.parquet")["mode"]
    )
    assert back.views() is None and back.summary()["clips"] is None and back.summary()["rows"] == 4
    assert not check_store(back.folder).damages, "an import's parts hold any views"
    found, wanted = (list(each.rows("train")) for each in (back, store))
    for one, other in zip(found, wanted, strict=True):
        for column in ("codes", "audio_codes"):
            assert np.array_equal(one.pop(column), other.pop(column))
        assert one == other
    if name == "hf":
        with pytest.raises(UsageError, match="mds holds clips of one size"):
            export_store(store, tmp_path / "mds", "mds")
        assert not (tmp_path / "mds").exists()


@pytest.mark.parametrize("name", ["hf", "mds", "ds", "webdataset"])
def test_the_same_store_gives_the_same_bytes(store: TokenStore, tmp_path: Path, name: str) -> None:
    for out in ("a", "b"):
        export_store(store, tmp_path / out, name)
    a, b = ({p.relative_to(tmp_path / out): sha256_of(p) for p in (tmp_path / out).rglob("*.*")} for out in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("name", formats())
def test_a_flipped_bit_in_an_export_is_noticed(store: TokenStore, tmp_path: Path, name: str) -> None:
    export_store(store, tmp_path / "out", name)
    listed = json.loads((tmp_path / "out/vtok.json").read_text())["files"]
    assert listed
    for path in listed:
        file = tmp_path / "out" / path
        before = file.read_bytes()
        at = len(before) // 2
        file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        with pytest.raises(IntegrityError):
            import_store(tmp_path / "out", tmp_path / "back", None, Origin())
        file.write_bytes(before)


def test_what_others_write(tmp_path: Path) -> None:
    """Codes without vtok's own notes, as each format's own tools and users write them."""
    codes = np.random.default_rng(0).integers(0, 64, (5, *GRID)).astype(np.uint16)
    flat = codes.reshape(5, -1)
    pq.write_table(
        pa.table({"id": range(5), "tokens": list(flat)}), mkdir(tmp_path / "hf/data") / "train-0-of-1.parquet"
    )
    with webdataset.TarWriter(str(mkdir(tmp_path / "webdataset/train") / "0.tar")) as tar:
        for number, clip in enumerate(codes):
            tar.write({"__key__": f"v{number}", "npy": clip, "cls": number, "txt": "a ball"})
    flat.astype("<u2").tofile(mkdir(tmp_path / "ds") / "0_tokens.ds")
    with h5py.File(tmp_path / "tokens.h5", "w") as file:
        file["train_data"], file["train_idx"] = codes.reshape(-1, *GRID[1:]), np.arange(5) * GRID[0]
    sources = {"hf": tmp_path / "hf", "webdataset": tmp_path / "webdataset", "ds": tmp_path / "ds"}
    for name, source in {**sources, "hdf5": tmp_path / "tokens.h5"}.items():
        origin = KNOWN._replace(column="tokens") if name == "hf" else KNOWN
        import_store(source, tmp_path / "in" / name, name, origin)
        rows = list(TokenStore(tmp_path / "in" / name).rows("train"))
        assert [row["codes"].tolist() for row in rows] == flat.tolist(), name
        assert (rows[0]["grid_t"], rows[0]["grid_h"], rows[0]["grid_w"]) == GRID
        if name == "webdataset":
            assert [(row["clip_id"], row["label"], row["caption"]) for row in rows][4] == ("v4", 4, "a ball")


def mkdir(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_mds_is_laid_out_as_its_library_writes_it(store: TokenStore, tmp_path: Path) -> None:
    """The first sample, by the layout of mosaicml-streaming's shards: rows, offsets, columns, sizes, values."""
    export_store(store, tmp_path / "out", "mds", ["test"])
    data = (tmp_path / "out/test/shard.00000.mds").read_bytes()
    index = json.loads((tmp_path / "out/test/index.json").read_text())
    (entry,) = index["shards"]
    rows, start, end = np.frombuffer(data, "<u4", 3)
    assert (index["version"], rows, entry["samples"], entry["raw_data"]["bytes"]) == (2, 3, 3, len(data))
    config = json.loads(data[4 * (rows + 2) : start])
    assert config["column_encodings"] == ["str", "ndarray:uint16:2,2,3", "int", "json"]
    assert config["column_sizes"] == [None, 24, 8, None]
    name, rest = np.frombuffer(data, "<u4", 2, start)
    assert start + 8 + name + 24 + 8 + rest == end
    assert data[start + 8 : start + 8 + name] == b"clip-0000"


def test_refusals(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'zarr'"):
        export_store(store, tmp_path / "out", "zarr")
    with pytest.raises(UsageError, match="no split 'dev'"):
        export_store(store, tmp_path / "out", "hf", ["dev"])
    export_store(store, tmp_path / "out", "hf")
    with pytest.raises(UsageError, match="something already"):
        export_store(store, tmp_path / "out", "hf")
    (tmp_path / "out/vtok.json").unlink()
    with pytest.raises(UsageError, match="format is unknown"):
        import_store(tmp_path / "out", tmp_path / "in", None, KNOWN)
    with pytest.raises(UsageError, match="which tokenizer made these codes"):
        import_store(tmp_path / "out", tmp_path / "in", "hf", Origin())
    with pytest.raises(UsageError, match="no mds files here"):
        import_store(tmp_path / "out", tmp_path / "in", "mds", KNOWN)
    with pytest.raises(UsageError, match="no column 'ids'"):
        import_store(tmp_path / "out", tmp_path / "in", "hf", KNOWN._replace(column="ids"))
    with pytest.raises(IntegrityError, match="holds code 63, the codebook has 32"):
        import_store(tmp_path / "out", tmp_path / "small", "hf", KNOWN._replace(codebook_size=32))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".vtok")] == []


def test_a_killed_import_goes_on(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_store(store, tmp_path / "out", "webdataset")
    monkeypatch.setattr(importing, "_PART_ROWS", 4)
    import_store(tmp_path / "out", tmp_path / "whole", None, Origin())
    code = "from pathlib import Path; from vtok.tokens.exchange import importing as i; i._PART_ROWS = 4; "
    code += "i.import_store(Path('out'), Path('in'), None, i.Origin())"
    mark = tmp_path / "mark"
    died = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(REPOSITORY),
            "PATH": "",
            "VTOK_CRASH_AT": "tokens:train-00002.parquet:before_rename",
            "VTOK_CRASH_MARK": str(mark),
        },
        check=False,
    )
    assert (died.returncode, mark.exists()) == (-signal.SIGKILL, True)
    import_store(tmp_path / "out", tmp_path / "in", None, Origin())
    whole, again = ({p.name: sha256_of(p) for p in (tmp_path / at).iterdir()} for at in ("whole", "in"))
    assert whole == again
    assert len(TokenStore(tmp_path / "in").parts) == 5


def test_the_commands(store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    assert main(["tokens", "export", str(store.folder), out, "--format", "mds"]) == 0
    assert main(["tokens", "import", out, back]) == 0
    said = capsys.readouterr().out
    assert "exported to mds: test 3, train 15 clips" in said
    assert f"next: vtok tokens check {back}" in said
    assert main(["tokens", "import", out, back, "--grid", "4"]) == 2
