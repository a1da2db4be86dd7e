"""What a file declares does not decide how much memory planning takes."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipelines.ingest import IngestWorker, Messages, _message
from schemas.config.base import fingerprint, fingerprint_of_list
from schemas.config.data import DataConfig
from vtok.artefacts import Part
from vtok.datasets import LAYOUTS
from vtok.video.revision import made_with

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


def _gif(path: Path, side: int, frames: int) -> Path:
    """A GIF of which every frame changes one pixel: 27 bytes a frame, whatever its size."""
    screen = struct.pack("<2H3B", side, side, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    delay = b"\x21\xf9\x04\x04\x04\x00\x00\x00"
    pixel = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    path.write_bytes(b"GIF89a" + screen + (delay + pixel) * frames + b"\x3b")
    return path


def _worker(root: Path, out: Path, **data: Any) -> Part:
    config = DataConfig(root=str(root), resolution=16, num_frames=16, **data)
    worker = IngestWorker(str(out), "plan", config.model_dump(mode="json"), made_with())
    try:
        return worker.make("part-00000.parquet", [_message(video, root) for video in LAYOUTS["folder"](root, config)])
    finally:
        worker.child.close()


def test_pixels_are_held_against_the_bytes_of_the_file(tmp_path: Path) -> None:
    """2,000 frames of 64 megapixels in 46 KB: 4 of 46 KB * 100,000 gigapixels are allowed, 72 frames, 4 clips."""
    root = tmp_path / "root"
    root.mkdir()
    size = _gif(root / "a.gif", 8000, 2000).stat().st_size
    assert size < 50_000
    affordable = size * 100_000 // 8000**2
    assert 62 < affordable < 80
    part = _worker(root, tmp_path)
    assert part.rows == affordable // 16
    (reject,) = part.rejects
    assert reject["reason"] == "over_budget" and reject["clip_id"] is None
    assert f"{125 - part.rows} of 125 clips lie beyond frame {affordable}" in reject["detail"]
    assert f"8000x8000 in a file of {size} bytes" in reject["detail"]
    assert _worker(root, tmp_path, max_clips_per_video=2).rejects == []
    assert _worker(root, tmp_path, frame_rate=5.0).rows == 0, "16 frames at 5 of 25 a second need 80"
    assert _worker(root, tmp_path, max_pixels_per_byte=10_000_000).rows == 125
    looked_at = _worker(root, tmp_path, min_motion=1.0)
    assert looked_at.rows == 0 and [reject["reason"] for reject in looked_at.rejects] == ["over_budget"]


def test_a_small_file_may_decode_to_four_gigapixels(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    _gif(root / "a.gif", 1000, 1600)
    part = _worker(root, tmp_path, max_pixels_per_byte=1)
    assert part.rows == 100 and part.rejects == []


def test_videos_that_are_only_declared_are_one_reject(tmp_path: Path) -> None:
    """40 million starts in a file of some kilobytes, whose frames were never written but for 4,096."""
    _file(tmp_path / "root", 1 << 30)
    with h5py.File(tmp_path / "root" / "a.h5", "a") as file:
        del file["train_idx"]
        file.create_dataset("train_idx", (40_000_000,), np.int64, chunks=(1 << 20,), compression="gzip")
    assert (tmp_path / "root" / "a.h5").stat().st_size < 100_000
    data = DataConfig(root=str(tmp_path / "root"), layout="hdf5")
    (video,) = LAYOUTS["hdf5"](tmp_path / "root", data)
    assert video.reject is not None and video.reject[0] == "implausible"
    assert "40000000 entries" in video.reject[1] and "4096 frames" in video.reject[1]


def test_what_a_worker_is_sent_says_the_same_as_what_was_planned(tmp_path: Path) -> None:
    _file(tmp_path / "root", CHUNK)
    data = DataConfig(root=str(tmp_path / "root"), layout="hdf5")
    videos = LAYOUTS["hdf5"](tmp_path / "root", data)
    sent = copy.deepcopy(Messages(videos, tmp_path / "root"))
    assert list(sent) == [_message(video, tmp_path / "root") for video in videos] and len(sent) == 1
    assert fingerprint_of_list(iter(sent)) == fingerprint(list(sent))
    assert fingerprint_of_list([]) == fingerprint([])
