from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.video.making import numbers, write_video
from vtok.video.child import DecodeChild
from vtok.video.clips import ClipSpan
from vtok.video.errors import VideoError
from vtok.video.media.companions import companion_address, read_companion, split_address
from vtok.video.probe import probe

ROWS = np.arange(10 * 3 * 2, dtype=np.float32).reshape(10, 3, 2)


def _reason(path: Path, item: str = "", indices: tuple[int, ...] = (0,)) -> str:
    with pytest.raises(VideoError) as caught:
        read_companion(path, item, indices)
    assert str(path.parent) not in caught.value.detail
    return str(caught.value.reason)


def test_addresses() -> None:
    for path, item in (("a.npy", ""), ("a#1#2.pickle", ""), ("a.h5", "train_data/0"), ("x#y.h5", "d[1:2]")):
        assert split_address(companion_address(path, item)) == (path, item)
    assert split_address("a.npy") == ("a.npy", "")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array(stream, ROWS, version)
    np.testing.assert_array_equal(read_companion(tmp_path / "a.npy", "", [7, 2, 2]), ROWS[[7, 2, 2]])
    np.save(tmp_path / "flat.npy", np.arange(4))
    np.testing.assert_array_equal(read_companion(tmp_path / "flat.npy", "", [3]), [3])


def test_npy_files_that_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "columns.npy", np.asfortranarray(ROWS))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "one.npy", np.array(3))
    np.save(tmp_path / "cut.npy", ROWS)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-30])
    (tmp_path / "none.npy").write_bytes(b"none")
    for name in ("objects", "columns", "text", "one", "none"):
        assert _reason(tmp_path / f"{name}.npy") == "corrupt"
    assert _reason(tmp_path / "cut.npy", indices=(8, 9)) == "corrupt"
    np.testing.assert_array_equal(read_companion(tmp_path / "cut.npy", "", [0, 1]), ROWS[:2])
    assert _reason(tmp_path / "cut.npy", indices=(9, 10)) == "missing_frames"
    assert _reason(tmp_path / "gone.npy") == "vanished"
    (tmp_path / "a.mat").write_bytes(b"x")
    assert _reason(tmp_path / "a.mat") == "unreadable"


def test_hdf5(tmp_path: Path) -> None:
    """Videos as `train_idx` says, with or without the end of the last; rows; whole datasets, also in groups."""
    path = tmp_path / "smap.h5"
    with h5py.File(path, "w") as file:
        file["train_data"], file["train_idx"] = ROWS, [0, 4, 10]
        file["test_data"], file["test_idx"] = ROWS, [0, 4]
        file["group/train_data/0"] = ROWS
    for item, rows in (
        ("train_data/0", ROWS[:4]),
        ("train_data/1", ROWS[4:]),
        ("test_data/1", ROWS[4:]),
        ("train_data[3:8]", ROWS[3:8]),
        ("train_data", ROWS),
        ("group/train_data/0", ROWS),
    ):
        np.testing.assert_array_equal(read_companion(path, item, [3, 1, 1]), rows[[3, 1, 1]])
        assert _reason(path, item, (0, len(rows))) == "missing_frames"
    assert _reason(path, "train_data/3") == "corrupt"
    assert _reason(path, "train_data[8:3]") == "missing_frames"
    assert _reason(path, "other") == _reason(path, "group") == "corrupt"


def test_hdf5_files_that_are_refused(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret.h5", tmp_path / "smap.h5"
    with h5py.File(secret, "w") as file:
        file["a/data"] = ROWS
    (tmp_path / "raw.bin").write_bytes(ROWS.tobytes())
    virtual = h5py.VirtualLayout(ROWS.shape, ROWS.dtype)
    virtual[:] = h5py.VirtualSource(str(secret), "a/data", ROWS.shape)
    with h5py.File(path, "w") as file:
        file["linked"] = h5py.ExternalLink(str(secret), "/a")
        file["soft"] = h5py.SoftLink("/linked/data")
        file["bad_data"], file["bad_idx"] = ROWS, [-5, 3]
        file["direct"] = h5py.ExternalLink(str(secret), "/a/data")
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("raw", ROWS.shape, ROWS.dtype, external=[(str(tmp_path / "raw.bin"), 0, ROWS.nbytes)])
        file["texts"] = ["a", "b"]
        file["one"] = 3
    for item in ("linked/data", "direct", "soft", "virtual", "raw"):
        assert _reason(path, item) == "unsafe_path"
    assert _reason(path, "texts") == _reason(path, "one") == _reason(path, "bad_data/0") == "corrupt"
    (tmp_path / "none.h5").write_bytes(b"none")
    assert _reason(tmp_path / "none.h5", "a") == "corrupt"
    assert _reason(tmp_path / "gone.h5", "a") == "vanished"


def test_pickles(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(ROWS))
    np.testing.assert_array_equal(read_companion(tmp_path / "a.pickle", "", [9, 0]), ROWS[[9, 0]])
    assert _reason(tmp_path / "a.pickle", indices=(10,)) == "missing_frames"
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(np.float32(3)))
    assert _reason(tmp_path / "b.pkl") == "corrupt"


def _decode(path: Path, spans: list[ClipSpan], companions: dict[str, Any]) -> dict[int, Any]:
    common = {"source_bytes": path.stat().st_size, **probe(path)._asdict(), "bbox": None}
    rows = [{**common, **span._asdict()} for span in spans]
    with DecodeChild() as child:
        run = child.decode(
            str(path),
            rows,
            resolution=48,
            policy="reference",
            decoder="pyav",
            max_pixels=1 << 26,
            cpu_seconds=30.0,
            companions={name: (str(file), item) for name, (file, item) in companions.items()},
        )
        return dict(run)


def test_rows_are_those_of_the_frames(tmp_path: Path) -> None:
    """By stride and by time; a clip past the last row is an error of its own."""
    video = write_video(tmp_path / "a.mp4", 30, fps=25, size=(48, 48))
    rows = np.arange(28 * 2, dtype=np.int16).reshape(28, 2)
    np.save(tmp_path / "a.npy", rows)
    stride = [ClipSpan(start, 3, start / 25, (start + 10) / 25, None, 4) for start in (5, 0, 20)]
    time = [ClipSpan(None, None, 0.2, 0.6, 10.0, 4)]
    for spans in (stride, time):
        found = _decode(video, spans, {"beside": (tmp_path / "a.npy", "")})
        for index, clip in found.items():
            if spans[index].start_frame == 20:
                assert clip.reason == "missing_frames"
                continue
            chosen = numbers(clip.frames_thwc)
            np.testing.assert_array_equal(clip.extras["beside"], rows[chosen])
        assert len(found) == len(spans)


def test_frames_of_images_have_companions_too(tmp_path: Path) -> None:
    from PIL import Image

    from tests.video.making import numbered_frame

    (tmp_path / "frames").mkdir()
    for index in range(6):
        Image.fromarray(numbered_frame(index, 48, 48)).save(tmp_path / "frames" / f"{index}.png")
    np.save(tmp_path / "a.npy", ROWS)
    with DecodeChild() as child:
        address = {"medium": "frames", "item": None}
        facts, size = child.probe(str(tmp_path / "frames"), cpu_seconds=20.0, source=address)
        row = {"source_bytes": size, **facts._asdict(), "bbox": None, **address}
        rows = [{**row, **ClipSpan(1, 2, 1 / 25, 4 / 25, None, 2)._asdict()}]
        ((_, clip),) = child.decode(
            str(tmp_path / "frames"),
            rows,
            resolution=48,
            policy="reference",
            decoder="pyav",
            max_pixels=1 << 26,
            cpu_seconds=30.0,
            companions={"beside": (str(tmp_path / "a.npy"), "")},
        )
    assert numbers(clip.frames_thwc) == [1, 3]
    np.testing.assert_array_equal(clip.extras["beside"], ROWS[[1, 3]])
