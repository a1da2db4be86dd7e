"""Artefacts in an object store, against an S3 server over HTTP: what holds on a disk holds there, without a rename."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.paths import ObjectPath, _Reading, as_path
from tests.pipelines.making import recipe
from tests.s3_server import BUCKET, Server, is_put
from vtok.files import atomic_file, local_copy, open_parquet, read_table, sha256_of, write_bytes, write_table

BIG = np.random.default_rng(0).bytes(21 << 20)
"""Enough for an upload in three parts."""


@pytest.fixture
def folder(s3: Server) -> ObjectPath:
    """A folder of its own in the bucket."""
    path = as_path(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert isinstance(path, ObjectPath)
    return path


def test_objects_are_written_listed_read_and_deleted(s3: Server, folder: ObjectPath) -> None:
    assert not folder.exists()
    for name in ("b.bin", "a.bin", "sub/c.txt"):
        write_bytes(folder / name, name.encode())
    assert folder.is_dir() and not folder.is_file() and (folder / "a.bin").is_file()
    assert [path.name for path in folder.iterdir()] == ["a.bin", "b.bin", "sub"]
    assert [path.name for path in folder.glob("*.bin")] == ["a.bin", "b.bin"]
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.txt")] == ["sub/c.txt"]
    assert (folder / "sub/c.txt").read_text() == (folder / "sub/c.txt").open().read() == "sub/c.txt"
    assert (folder / "a.bin").stat().st_size == 5
    assert sha256_of(folder / "a.bin") == hashlib.sha256(b"a.bin").hexdigest()
    write_bytes(folder / "a.bin", b"new")
    assert (folder / "a.bin").read_bytes() == b"new"
    for _ in range(2):
        (folder / "a.bin").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a.bin").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "a.bin").open("rb")
    with pytest.raises(VtokError, match="no such file"):
        read_table(folder / "a.bin")


def test_a_table_is_read_by_the_thread_that_asks(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of Arrow's that lets go of the stream while Python ends aborts the process."""
    write_table(folder / "t.parquet", pa.table({name: np.arange(100) for name in "abcdefgh"}), row_group_size=10)
    asked = set()
    original = _Reading.readinto

    def readinto(self: _Reading, buffer: Any) -> int:
        asked.add(threading.get_ident())
        return original(self, buffer)

    monkeypatch.setattr(_Reading, "readinto", readinto)
    read_table(folder / "t.parquet")
    with open_parquet(folder / "t.parquet") as file:
        file.read_row_group(3)
        file.read_row_groups([1, 2])
        assert sum(batch.num_rows for batch in file.iter_batches(7)) == 100
    assert asked == {threading.get_ident()}


def test_a_large_object_comes_back_in_sequence_in_pieces_and_as_a_copy(s3: Server, folder: ObjectPath) -> None:
    path = folder / "big"
    write_bytes(path, BIG)
    assert sum("partNumber" in query for _, where, query in s3.requests if where.endswith(f"{folder.name}/big")) == 3
    assert sha256_of(path) == hashlib.sha256(BIG).hexdigest()
    with path.open("rb") as stream:
        stream.seek(20 << 20)
        assert stream.read(1000) == BIG[20 << 20 :][:1000]
        stream.seek(-5, os.SEEK_END)
        assert stream.read() == BIG[-5:]
    with local_copy(path) as local:
        assert local.read_bytes() == BIG
    assert not local.parent.exists()
    with local_copy(folder / "none") as local:
        assert not local.exists()


def test_tables(folder: ObjectPath) -> None:
    table = pa.table({"n": list(range(1000))})
    write_table(folder / "t.parquet", table, row_group_size=100)
    assert read_table(folder / "t.parquet").equals(table)
    with open_parquet(folder / "t.parquet") as file:
        assert file.read_row_group(3).equals(table.slice(300, 100))
    damaged = bytearray((folder / "t.parquet").read_bytes())
    damaged[len(damaged) // 3] ^= 0x5A
    write_bytes(folder / "t.parquet", damaged)
    with pytest.raises(IntegrityError, match="damaged"):
        read_table(folder / "t.parquet")


def test_nothing_is_put_before_the_end_or_after_an_error(s3: Server, folder: ObjectPath) -> None:
    write_bytes(folder / "a", b"old")
    with atomic_file(folder / "b") as stream:
        stream.write(b"half")
        assert not (folder / "b").exists()
    assert (folder / "b").read_bytes() == b"half"

    def fail() -> None:
        with atomic_file(folder / "a") as stream:
            stream.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert s3.objects(folder.name) == {"a": b"old", "b": b"half"}


@pytest.mark.parametrize("data", [b"small", BIG], ids=["one request", "in parts"])
def test_a_store_that_is_busy_for_a_while_is_asked_again(s3: Server, folder: ObjectPath, data: bytes) -> None:
    with s3.failing(is_put, times=1):
        write_bytes(folder / "a", data)
    with s3.failing(lambda method, path, query: method in ("GET", "HEAD"), times=1):
        assert (folder / "a").read_bytes() == data


@pytest.mark.parametrize("fails", ["", "partNumber=2", "uploadId"], ids=["all", "second part", "completion"])
def test_a_store_that_stays_busy_is_an_error_and_changes_nothing(s3: Server, folder: ObjectPath, fails: str) -> None:
    write_bytes(folder / "a", b"old")
    with s3.failing(lambda m, p, q: is_put(m, p, q) and fails in q and ("partNumber" in q) == ("partNumber" in fails)):
        for name in ("a", "new"):
            with pytest.raises(VtokError, match="SLOW_DOWN") as caught:
                write_bytes(folder / name, BIG)
            assert caught.value.at == str(folder / name)
            assert "same command again" in caught.value.hint
    assert s3.objects(folder.name) == {"a": b"old"}
    write_bytes(folder / "new", BIG)
    assert s3.objects(folder.name) == {"a": b"old", "new": BIG}


def test_a_busy_store_is_no_damage(s3: Server, folder: ObjectPath) -> None:
    """Damaged parts are deleted and made again: a read that fails must not look like one."""
    numbers = pa.table({"n": np.arange(3_000_000)})
    write_table(folder / "t.parquet", numbers, compression="none", compression_level=None)
    with s3.failing(lambda method, path, query: method == "GET"), pytest.raises(VtokError, match="refusing") as caught:
        read_table(folder / "t.parquet")
    assert not isinstance(caught.value, IntegrityError)


def test_what_users_get_wrong(s3: Server, folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    from schemas import paths

    with pytest.raises(VtokError, match="no such bucket") as caught:
        write_bytes(as_path("s3://no-such-bucket/a"), b"x")
    assert caught.value.at == "s3://no-such-bucket/a"
    with s3.failing(lambda *_: True, denied=True):
        for ask in (folder.exists, lambda: write_bytes(folder / "a", b"x"), lambda: (folder / "a").read_bytes()):
            with pytest.raises(VtokError, match="access is denied") as caught:
                ask()
            assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    paths._store.cache_clear()
    try:
        with pytest.raises(VtokError, match="cannot be reached") as caught:
            folder.exists()
        assert "AWS_ENDPOINT_URL" in caught.value.hint
    finally:
        paths._store.cache_clear()


@pytest.mark.parametrize("request_killed", ["partNumber=2", "uploadId"], ids=["second part", "completion"])
def test_a_process_killed_while_it_puts_leaves_nothing(s3: Server, folder: ObjectPath, request_killed: str) -> None:
    """The server itself kills the client when this request arrives, and does not carry it out."""
    code = (
        "import os, sys; from vtok.files import write_bytes\n"
        "print(os.getpid(), flush=True); sys.stdin.read(1)\n"
        f"write_bytes({str(folder / 'a')!r}, bytes(21 << 20))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    pid = int(process.stdout.readline())

    def kill(method: str, path: str, query: str) -> bool:
        if request_killed in query and ("partNumber" in query) == ("partNumber" in request_killed):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    with s3.failing(kill):
        process.communicate("x", timeout=300)
        assert process.returncode == -signal.SIGKILL
    assert s3.objects(folder.name) == {}


def test_training_says_that_it_needs_a_local_folder(corpus: Path, tmp_path: Path) -> None:
    from pipelines.evaluate import evaluate
    from vtok.report import write_report

    settings = recipe(corpus, as_path(f"s3://{BUCKET}/run"))
    assert str(settings.folder("prior")) == f"s3://{BUCKET}/run/prior"
    assert settings.model_copy(update={"models": str(tmp_path)}).folder("prior") == tmp_path / "prior"
    for command in (evaluate, write_report):
        with pytest.raises(UsageError, match="needs a local folder"):
            command(as_path(settings.out))
