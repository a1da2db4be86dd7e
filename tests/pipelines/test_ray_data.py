"""A token store as a Ray Dataset: every row once, and never a damaged one; and what Ray's own readers make of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ray_data import read_tokens
from schemas.errors import UsageError
from tests.shards.making import clip_name, frames_of, make_shards
from tests.tokens.making import codes_of_clip, make_store
from vtok.shards.codec import decode_clip

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_running")]
pytest.importorskip("ray.data", reason="Ray Data needs pandas, which is not installed")


def test_every_row_comes_and_a_damaged_part_does_not(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "tokens", {"train": [5, 2], "test": [3]})
    rows = read_tokens(folder, "train").take_all()
    assert sorted(row["clip_id"] for row in rows) == [f"clip-{n:04d}" for n in range(7)]
    for row in rows:
        assert np.array_equal(row["codes"], codes_of_clip(row["label"], 64))
        assert row["view_id"] == "whole"
    (first, *_) = read_tokens(folder, "test", columns=["clip_id", "grid_t"]).take_all()
    assert set(first) == {"clip_id", "grid_t"}
    with pytest.raises(UsageError, match="no split 'val'"):
        read_tokens(folder, "val")
    with pytest.raises(UsageError, match="no column 'code'"):
        read_tokens(folder, "train", columns=["code"])
    path = folder / "train-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Exception, match="sha256 differs from the index"):
        read_tokens(folder, "train").take_all()


def test_rays_own_reader_gives_exactly_the_rows(tmp_path: Path) -> None:
    import ray.data

    folder = make_store(tmp_path / "tokens", {"train": [5, 0, 2], "test": [3]})
    rows = ray.data.read_parquet(str(folder)).select_columns(["clip_id", "codes"]).take_all()
    assert sorted(row["clip_id"] for row in rows) == [f"clip-{n:04d}" for n in range(10)]
    assert all(np.array_equal(row["codes"], codes_of_clip(int(row["clip_id"][-4:]), 64)) for row in rows)


def test_a_bit_that_no_decompressor_notices_stops_our_way_through_ray(tmp_path: Path) -> None:
    """Ray 2.60 takes `page_checksum_verification=True` and ignores it: `read_tokens` is the way through Ray."""
    import ray.data

    folder = make_store(tmp_path / "tokens", {"train": [9]})
    path = folder / "train-00000.parquet"
    good = pq.read_table(path)
    _flip_a_code(path, good)
    assert pq.read_table(path)["codes"] != good["codes"], "other codes, and no error"
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)
    with pytest.raises(Exception, match="sha256 differs from the index"):
        read_tokens(folder, "train").take_all()
    if ray.__version__.startswith("2.60."):
        rows = ray.data.read_parquet(str(folder), page_checksum_verification=True).take_all()
        assert not all(np.array_equal(row["codes"], codes_of_clip(row["label"], 64)) for row in rows)


def _flip_a_code(path: Path, good: pa.Table) -> None:
    """Flips a bit of the page of codes, from its end on, until only the codes tell."""
    data, layout = path.read_bytes(), pq.read_metadata(path).row_group(0)
    columns = [layout.column(number) for number in range(layout.num_columns)]
    (codes,) = [column for column in columns if column.path_in_schema.startswith("codes")]
    end = codes.data_page_offset + codes.total_compressed_size
    for offset in reversed(range(codes.data_page_offset, end)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with contextlib.suppress(OSError):
            if pq.read_table(path)["codes"] != good["codes"]:
                return
    raise AssertionError("no such bit")


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "h264"])
def test_rays_reader_of_shards_gives_exactly_the_clips(tmp_path: Path, encoding: str) -> None:
    """With its default decoder, which decodes what it knows: JSON and images."""
    import ray.data

    folder = make_shards(tmp_path / "shards", {"train": [3, 2], "test": [1]}, encoding)
    rows = sorted(ray.data.read_webdataset(str(folder)).take_all(), key=lambda row: row["__key__"])
    assert [row["__key__"] for row in rows] == [clip_name(n) for n in range(6)]
    for number, row in enumerate(rows):
        meta = row["json"] if isinstance(row["json"], dict) else json.loads(row["json"])
        assert meta["number"] == number
        if encoding == "jpeg":
            frames = np.stack([np.asarray(row[f"{n:03d}.jpg"]) for n in range(4)])
            assert np.abs(frames.astype(int) - frames_of(number)).mean() < 4
        else:
            member = {"raw": "npy.zst", "h264": "mp4"}[encoding]
            assert np.abs(decode_clip({member: row[member]}).astype(int) - frames_of(number)).mean() < 20
