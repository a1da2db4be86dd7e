"""What others wrote wrongly is refused by name, and leaves nothing behind that would block the right import."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from tests.tokens.making import GRID, TOKENIZER
from vtok.locks import exclusive
from vtok.tokens.check import check_store
from vtok.tokens.exchange import importing
from vtok.tokens.exchange.importing import Origin, import_store
from vtok.tokens.store import TokenStore

KNOWN = Origin(TOKENIZER, 64, GRID)
SIZE = int(np.prod(GRID))


def some_codes(rows: int = 4) -> list[Any]:
    return np.random.default_rng(0).integers(0, 64, (rows, SIZE)).tolist()


def parquet(folder: Path, columns: dict[str, Any], name: str = "train-0.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"codes": some_codes(), **columns}), folder / name)
    return folder


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "fractions": ({"codes": [[0.9] * SIZE] * 4}, "codes of clip 0 of train are float64, not integers"),
    "whole numbers as fractions": ({"codes": [[1.0] * SIZE] * 4}, "are float64, not integers"),
    "a missing code": ({"codes": [[1] * SIZE, [None, *[1] * (SIZE - 1)]] * 2}, "clip 1 of train are float64"),
    "missing codes": ({"codes": [[1] * SIZE, None] * 2}, "clip 1 of train are object"),
    "codes that are text": ({"codes": [["a"] * SIZE] * 4}, "not integers"),
    "no lists": ({"codes": [1, 2, 3, 4]}, "codes is int64, not lists of codes"),
    "a negative code": ({"codes": [[-1] * SIZE] * 4}, "holds code -1, the codebook has 64"),
    "too few codes": ({"codes": [[1] * (SIZE - 1)] * 4}, "has 11 codes, its grid is"),
    "no codes": ({"codes": [[]] * 4}, "codes"),
    "a label of text": ({"label": ["jump"] * 4}, "clip 0 of train has 'jump' as label, not int32"),
    "a label beyond its type": ({"label": [2**40] * 4}, "as label, not int32"),
    "a label that is a fraction": ({"label": [1.5] * 4}, "has 1.5 as label, not int32"),
    "a number as the name": ({"clip_id": [1, 2, 3, 4]}, "has 1 as clip_id, not string"),
    "a caption that is a number": ({"caption": [None, 7, None, None]}, "clip 1 of train has 7 as caption, not string"),
    "a name twice": ({"clip_id": ["a", "b", "a", "c"]}, "two rows of clip 'a', view 'whole'"),
    "rows of another split": ({"split": ["train", "test", "train", "train"]}, "clip 1 of train says .* split 'test'"),
    "a grid of text": ({"grid_t": ["2"] * 4}, "has '2' as grid_t, not int32"),
    "a negative grid": ({"grid_t": [-2] * 4, "grid_h": [-2] * 4, "grid_w": [3] * 4}, r"its grid is \(-2, -2, 3\)"),
    "frames of another size": ({"cond_frames": [b"1234"] * 4, "height": [4] * 4, "width": [4] * 4}, "no RGB frames"),
    "sounds nobody knows": ({"audio_codes": [[5]] * 4}, "code 5 in a codebook of 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_rows_are_refused_and_leave_nothing_behind(tmp_path: Path, wrong: str) -> None:
    columns, what = WRONG[wrong]
    source, out = parquet(tmp_path / "in", columns), tmp_path / "tokens"
    with pytest.raises(VtokError, match=what) as caught:
        import_store(source, out, "hf", KNOWN)
    assert caught.value.at.startswith(str(source)) and caught.value.hint
    assert not out.exists()


def test_a_wrong_column_does_not_block_the_right_one(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in", {"tokens": [[70] * SIZE] * 4})
    with pytest.raises(IntegrityError, match="code 70"):
        import_store(source, tmp_path / "tokens", "hf", KNOWN._replace(column="tokens"))
    with pytest.raises(UsageError, match="no column"):
        import_store(source, tmp_path / "tokens", "hf", KNOWN._replace(column="ids"))
    with pytest.raises(IntegrityError, match="codebook has 3"):
        import_store(source, tmp_path / "tokens", "hf", KNOWN._replace(codebook_size=3))
    assert import_store(source, tmp_path / "tokens", "hf", KNOWN).counts["clips"] == 4


@pytest.mark.parametrize("where", ["another part", "another split"])
def test_a_name_twice_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """(clip_id, view_id) is unique in a store, not in a part."""
    monkeypatch.setattr(importing, "_PART_ROWS", 4)
    source = parquet(tmp_path / "in", {"clip_id": list("abcd")})
    parquet(source, {"clip_id": list("efga")}, "test-0.parquet" if where == "another split" else "train-1.parquet")
    with pytest.raises(IntegrityError, match="the row of clip 'a', view 'whole' occurs 2 times"):
        import_store(source, tmp_path / "tokens", "hf", KNOWN)
    assert not (tmp_path / "tokens").exists()
    views = {"clip_id": list("efga"), "view_id": ["mirrored"] * 4}
    parquet(source, views, "test-0.parquet" if where == "another split" else "train-1.parquet")
    assert import_store(source, tmp_path / "tokens", "hf", KNOWN).counts["clips"] == 8
    assert check_store(tmp_path / "tokens").damages == []


def test_parts_of_an_earlier_run_are_never_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be what is left of a store, and the source may have gone bad in the meantime."""
    monkeypatch.setattr(importing, "_PART_ROWS", 2)
    source, out = parquet(tmp_path / "in", {}), tmp_path / "tokens"
    import_store(source, out, "hf", KNOWN)
    for name in ("_vtok.json", "train-00001.parquet"):
        (out / name).unlink()

    def torn(rows: Any, *args: Any) -> Any:
        yield from (row for number, row in enumerate(rows) if number < 2)
        raise IntegrityError("torn")

    with monkeypatch.context() as patched:
        patched.setattr(importing, "_guarded", torn)
        with pytest.raises(IntegrityError, match="torn"):
            import_store(source, out, "hf", KNOWN)
    assert (out / "train-00000.parquet").exists()
    assert import_store(source, out, "hf", KNOWN).counts["clips"] == 4


def test_two_imports_at_once(tmp_path: Path) -> None:
    source, out = parquet(tmp_path / "in", {}), tmp_path / "tokens"
    with exclusive(out), pytest.raises(UsageError, match="another job is at work"):
        import_store(source, out, "hf", KNOWN)
    import_store(source, out, "hf", KNOWN)


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path.parent


def npy(clip: list[int]) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array(clip, np.uint16))
    return data.getvalue()


@pytest.mark.parametrize("folder", ["./", "", "v1.0/", "./a.b/c.d/"])
def test_tars_made_of_folders(tmp_path: Path, folder: str) -> None:
    """`tar c .` gives members `./00000.npy`; folders may have dots."""
    members = []
    for number, clip in enumerate(some_codes()):
        members += [(f"{folder}{number:05d}.npy", npy(clip)), (f"{folder}{number:05d}.cls", b"3")]
    source = tar(tmp_path / "in/train-0.tar", [*members, (f"{folder}README", b"no clip"), (f"{folder}.hidden", b"")])
    import_store(source, tmp_path / "tokens", "webdataset", KNOWN)
    rows = list(TokenStore(tmp_path / "tokens").rows("train"))
    assert [row["codes"].tolist() for row in rows] == some_codes()
    assert [row["clip_id"] for row in rows] == [f"{folder.removeprefix('./')}{number:05d}" for number in range(4)]
    assert {row["label"] for row in rows} == {3}


def test_tars_that_cannot_be_true(tmp_path: Path) -> None:
    clip = npy(some_codes()[0])
    cases: dict[str, tuple[list[tuple[str, bytes]], str]] = {
        "twice": ([("a.npy", clip), ("a.npy", npy(some_codes()[1]))], "a.npy is there twice"),
        "bare": ([("a.npy", clip), ("a.json", b"[1]")], "a cannot be read"),
        "class": ([("a.npy", clip), ("a.cls", b"jump")], "a cannot be read"),
        "empty": ([("a.npy", b"")], "a cannot be read"),
        "none": ([("a.txt", b"a ball")], "a has no .npy"),
    }
    for name, (members, what) in cases.items():
        source = tar(tmp_path / name / "0.tar", members)
        with pytest.raises(VtokError, match=what):
            import_store(source, tmp_path / "tokens", "webdataset", KNOWN)
    assert not (tmp_path / "tokens").exists()


def mds(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        entry: dict[str, Any] = {"raw_data": {"basename": "shard.mds", "bytes": 3}, "samples": 1, "format": "mds"}
        entry |= {"column_names": ["codes"], "column_encodings": ["ndarray:uint16:12"], "column_sizes": [24]}
        change(entry)
        (folder / "index.json").write_text(json.dumps({"shards": [entry]}))
        (folder / "shard.mds").write_bytes(b"abc")

    return write


def hdf5(**arrays: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with h5py.File(folder / "x.h5", "w") as file:
            for name, value in arrays.items():
                file[name] = value

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("mds", mds(lambda entry: None)),
        ("mds", mds(lambda entry: entry.update(samples="x"))),
        ("mds", mds(lambda entry: entry.update(raw_data=3))),
        ("mds", mds(lambda entry: entry["raw_data"].update(basename="../shard.mds"))),
        ("hdf5", hdf5(train_data=np.zeros((4, 2, 3)), train_idx=np.array([0, 2]))),
        ("hdf5", hdf5(train_data=np.zeros((4, 2), int), train_idx=np.array([0, 2]))),
        ("hdf5", hdf5(train_data=np.zeros((4, 2, 3), int), train_idx=np.array([0, 3, 2]))),
        ("hdf5", lambda folder: (folder / "x.h5").write_bytes(b"no HDF5")),
        ("hf", lambda folder: (folder / "x.parquet").write_bytes(b"no Parquet")),
        ("webdataset", lambda folder: (folder / "x.tar").write_bytes(b"no tar" * 200)),
        ("ds", lambda folder: (folder / "x.ds").write_bytes(b"odd")),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    with pytest.raises(VtokError):
        import_store(tmp_path / "in", tmp_path / "tokens", name, KNOWN)
    assert not (tmp_path / "tokens").exists()
