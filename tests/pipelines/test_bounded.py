"""What a file declares does not decide how much memory planning takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

CHUNK = 4096

SCRIPT = """
import json, resource, sys
from pathlib import Path
from pipelines.ingest import IngestWorker, _message
from schemas.config.data import DataConfig
from vtok.datasets import LAYOUTS
from vtok.video.revision import made_with

root, out = Path(sys.argv[1]), Path(sys.argv[2])
data = DataConfig(root=str(root), layout="hdf5", resolution=8, num_frames=16)
worker = IngestWorker(str(out), "plan", data.model_dump(mode="json"), made_with())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
part = worker.make("part-00000.parquet", [_message(video, root) for video in LAYOUTS["hdf5"](root, data)])
worker.child.close()
peak = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"rows": part.rows, "rejects": part.rejects, "grown": peak[0] - before, "child": peak[1]}))
"""


def _file(root: Path, rows: int, *, written: int = CHUNK) -> Path:
    """An HDF5 file of one video that declares so many frames, of which some were written."""
    root.mkdir()
    with h5py.File(root / "a.h5", "w") as file:
        data = file.create_dataset("train_data", (rows, 8, 8, 3), np.uint8, chunks=(CHUNK, 8, 8, 3), compression="gzip")
        block = np.ones((CHUNK, 8, 8, 3), np.uint8)
        for start in range(0, written, CHUNK):
            data[start : start + CHUNK] = block[: rows - start]
        file["train_idx"] = [0]
    return root


def _plan(root: Path, out: Path) -> dict[str, Any]:
    """What a worker of a fresh process makes of the file, and the memory that it took, KiB."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT, root, out], capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("power", [40, 23])
def test_frames_that_are_only_declared_are_a_reject(power: int, tmp_path: Path) -> None:
    found = _plan(_file(tmp_path / "root", 1 << power), tmp_path)
    assert found["rows"] == 0
    assert [reject["reason"] for reject in found["rejects"]] == ["implausible"]
    assert str(1 << power) in found["rejects"][0]["detail"]
    assert found["grown"] < 100 << 10 and found["child"] < 300 << 10


@pytest.mark.parametrize("rows", [1 << 21, pytest.param(1 << 24, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_many_clips_of_a_real_file_in_bounded_memory(rows: int, tmp_path: Path) -> None:
    """131,072 clips (a million in the soak): as dicts they would be 220 MB (1.7 GB)."""
    found = _plan(_file(tmp_path / "root", rows, written=rows), tmp_path)
    assert found["rows"] == rows // 16 and found["rejects"] == []
    assert found["grown"] < 150 << 10
