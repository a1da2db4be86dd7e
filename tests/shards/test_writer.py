from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest

from schemas.config.data import ShardsConfig
from schemas.errors import IntegrityError
from schemas.shards import FOOTER_MEMBER
from tests.shards.making import clip_name, samples
from vtok.shards.writer import read_footer, verify_shard, write_shard

_FOOTER = {"plan": "p", "split": "train", "rows": 3, "rejects": [], "sources": {"é.avi": "00"}}


def _write(path: Path, count: int = 3) -> tuple[int, str]:
    return write_shard(path, samples(range(count), ShardsConfig(encoding="raw")), dict(_FOOTER), point="t")


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    size, digest = _write(tmp_path / "a.tar")
    _write(tmp_path / "deeper" / "b.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert data == (tmp_path / "deeper" / "b.tar").read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    *samples_, footer = members
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {(m.mode, m.type) for m in samples_} == {(0o644, tarfile.REGTYPE)}
    assert [m.name for m in samples_[:2]] == [f"{clip_name(0)}.json", f"{clip_name(0)}.npy.zst"]
    assert f"{footer.name}/" == FOOTER_MEMBER and footer.isdir() and list(footer.pax_headers) == ["comment"]


def test_the_footer_may_grow_while_samples_are_written(tmp_path: Path) -> None:
    footer: dict[str, int] = {"rows": 0}

    def counted():  # type: ignore[no-untyped-def]
        for sample in samples(range(4), ShardsConfig(encoding="raw")):
            footer["rows"] += 1
            yield sample

    write_shard(tmp_path / "a.tar", counted(), footer, point="t")
    assert read_footer(tmp_path / "a.tar") == {"rows": 4}


def test_footer_round_trip_and_empty_shards(tmp_path: Path) -> None:
    _write(tmp_path / "a.tar")
    _write(tmp_path / "empty.tar", 0)
    assert read_footer(tmp_path / "a.tar") == read_footer(tmp_path / "empty.tar") == _FOOTER


def test_any_cut_is_noticed(tmp_path: Path) -> None:
    size, _ = _write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    for keep in [0, 1, 511, 512, *range(1024, size, 1024), size - 512, size - 1]:
        (tmp_path / "cut.tar").write_bytes(data[:keep])
        with pytest.raises(IntegrityError):
            read_footer(tmp_path / "cut.tar")


def test_no_tar_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    for name in ("a.tar", "gone.tar"):
        with pytest.raises(IntegrityError) as caught:
            read_footer(tmp_path / name)
        assert caught.value.hint
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.add(tmp_path / "a.tar", arcname="other.txt")
    with pytest.raises(IntegrityError):
        read_footer(tmp_path / "b.tar")


@pytest.mark.parametrize("size", range(70, 130))
def test_footers_of_every_length(tmp_path: Path, size: int) -> None:
    """The record's length counts its own digits, and the text may end anywhere in a block."""
    footer = {"plan": "p" * (size - 70), "rejects": ["x" * (size - 70) * 8]}
    write_shard(tmp_path / "a.tar", [], footer, point="t")
    assert verify_shard(tmp_path / "a.tar") == footer
    with tarfile.open(tmp_path / "a.tar") as tar:
        (member,) = tar.getmembers()
    assert json.loads(member.pax_headers["comment"])["plan"] == footer["plan"]


def test_a_long_footer_is_found_from_the_end(tmp_path: Path) -> None:
    footer = {"rejects": [{"clip_id": f"clip-{n}", "detail": "é" * 50} for n in range(5000)]}
    write_shard(tmp_path / "a.tar", samples(range(2), ShardsConfig(encoding="raw")), footer, point="t")
    assert read_footer(tmp_path / "a.tar") == verify_shard(tmp_path / "a.tar") == footer


def test_the_footer_of_a_large_shard_costs_64_kib(tmp_path: Path) -> None:
    """As sealing a job in an object store needs it: no more of the file is read."""
    noise = np.random.default_rng(0).bytes(300_000)
    write_shard(tmp_path / "a.tar", [("a", {"json": b"{}", "bin": noise})], dict(_FOOTER), point="t")
    counted: list[int] = []

    class Counting(PosixPath):
        def open(self, *args: Any, **options: Any) -> Any:
            stream = super().open(*args, **{**options, "buffering": 0})
            read = stream.read

            class Reads(io.RawIOBase):
                def seek(self, *where: int) -> int:
                    return int(stream.seek(*where))

                def read(self, size: int = -1) -> bytes:
                    data = read(size)
                    counted.append(len(data))
                    return bytes(data)

            return Reads()

    assert read_footer(Counting(tmp_path / "a.tar")) == _FOOTER
    assert sum(counted) == 64 << 10 < (tmp_path / "a.tar").stat().st_size


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield from samples(range(1), ShardsConfig(encoding="raw"))
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", broken(), {}, point="t")
    assert list(tmp_path.iterdir()) == []


def test_text_in_the_footer_is_readable(tmp_path: Path) -> None:
    _write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        found = json.loads(tar.getmembers()[-1].pax_headers["comment"])
    assert len(found.pop("sha256")) == 64
    assert len(found.pop("samples_sha256")) == 64
    assert found == _FOOTER


def test_a_shard_vouches_for_every_byte_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _write(path)
    assert verify_shard(path) == _FOOTER
    good = path.read_bytes()
    for offset in range(0, len(good), 97):
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset % 8)
        path.write_bytes(bytes(bad))
        with pytest.raises(IntegrityError):
            verify_shard(path)
