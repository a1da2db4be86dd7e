"""A token store as a Ray Dataset: every row once, and never a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.ray_data import read_tokens
from schemas.errors import UsageError
from tests.tokens.making import codes_of_clip, make_store

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
