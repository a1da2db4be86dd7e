"""Files appear whole or not at all, and damage is seen."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.errors import IntegrityError, VtokError
from vtok.files import TEMP_MARK, atomic_file, read_table, sweep_temporaries, write_bytes, write_table


def test_nothing_under_the_final_name_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.bin"
    with atomic_file(path) as stream:
        stream.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail() -> None:
        with atomic_file(path) as stream:
            stream.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_unwritable_folder_is_an_error_for_users(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(VtokError) as caught:
        write_bytes(tmp_path / "file" / "a.bin", b"x")
    assert "a.bin" in caught.value.at
    assert "same command" in caught.value.hint


def test_a_full_disk_is_an_error_for_users(tmp_path: Path) -> None:
    code = (
        "import os, vtok.files as f\n"
        "def full(fd):\n    raise OSError(28, 'No space left on device')\n"
        "os.fsync = full\n"
        "try:\n    f.write_bytes('x.bin', b'1')\n"
        "except Exception as e:\n    print(e)\n"
        "print(sorted(os.listdir('.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "No space left" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_a_write_that_the_system_cuts_short_leaves_nothing_and_the_next_succeeds(tmp_path: Path) -> None:
    """The system itself refuses the bytes past a limit, as a full disk does: in the middle of a write."""
    code = (
        "import resource, signal, vtok.files as f\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "whole = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, whole[1]))\n"
        "f.write_bytes('small.bin', b'1' * 4000)\n"
        "try:\n    f.write_bytes('x.bin', b'1' * 6000)\n"
        "except f.VtokError as e:\n    print(e)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, whole)\n"
        "f.write_bytes('y.bin', b'1' * 6000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "cannot write the file: File too large" in done.stdout
    assert "at:    x.bin" in done.stdout and "same command again" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.bin", "y.bin"]


def test_a_read_only_disk_is_an_error_for_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(VtokError, match="Read-only file system") as caught:
        write_bytes(tmp_path / "a.bin", b"x")
    assert "choose another folder" in caught.value.hint


@pytest.mark.parametrize("point", ["temp_written", "before_rename", "after_rename"])
def test_sigkill_around_the_rename(tmp_path: Path, point: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "out" / "a.bin"
    code = f"from vtok.files import write_bytes; write_bytes({str(path)!r}, b'x' * 100000, point='p')"
    environment = {**os.environ, "VTOK_CRASH_AT": f"p:{point}", "VTOK_CRASH_MARK": str(mark)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -9
    assert mark.exists(), "the crash point was not reached"
    assert path.exists() == (point == "after_rename")
    assert sweep_temporaries(path.parent) == (0 if point == "after_rename" else 1)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert path.read_bytes() == b"x" * 100000
    assert not list(path.parent.glob(f"{TEMP_MARK}*"))


def test_every_flipped_bit_of_a_table_is_seen_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"n": list(range(500)), "s": [f"row {i}" for i in range(500)]})
    write_table(path, table)
    good = path.read_bytes()
    detected = 0
    for offset in range(0, len(good), 7):
        bad = bytearray(good)
        bad[offset] ^= 0x5A
        path.write_bytes(bytes(bad))
        try:
            assert read_table(path).equals(table), f"offset {offset} changed data silently"
        except IntegrityError:
            detected += 1
    assert detected > len(good) // 7 // 2


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_table(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"n": [1, 2, 3]}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError):
        read_table(path)


def test_a_table_of_an_older_writer_gets_nulls(tmp_path: Path) -> None:
    write_table(tmp_path / "old.parquet", pa.table({"a": [1, 2], "c": ["x", None]}))
    schema = pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.string()), pa.field("c", pa.string())])
    assert read_table(tmp_path / "old.parquet", schema=schema).to_pydict() == {
        "a": [1, 2],
        "b": [None, None],
        "c": ["x", None],
    }
    strict = schema.set(1, pa.field("b", pa.string(), nullable=False))
    with pytest.raises(IntegrityError, match="field names"):
        read_table(tmp_path / "old.parquet", schema=strict)
