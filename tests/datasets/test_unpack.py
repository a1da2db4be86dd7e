"""Archives become trees whole or not at all, and nothing ends outside of the folder."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from vtok.datasets import unpack as module
from vtok.datasets.catalogue import DATASETS, Dataset, find_dataset
from vtok.datasets.unpack import RECEIPT, unpack

ANY = Dataset("folder", "https://example.org", ("*.zip", "*.tar", "*.tar.gz", "*.rar"), {}, 0, "download it")


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def _rar(path: Path, members: dict[str, bytes]) -> Path:
    """A RAR 4 archive with stored members, after the published description of the format."""

    def block(kind: int, flags: int, body: bytes, data: bytes = b"") -> bytes:
        head = bytes([kind]) + flags.to_bytes(2, "little") + (7 + len(body)).to_bytes(2, "little") + body
        return (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + head + data

    out = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, data in members.items():
        text, size = name.encode(), len(data).to_bytes(4, "little")
        crc, mode = zlib.crc32(data).to_bytes(4, "little"), (0o100644).to_bytes(4, "little")
        body = size + size + b"\x03" + crc + bytes.fromhex("00002158") + b"\x14\x30"
        out += block(0x74, 0x8000, body + len(text).to_bytes(2, "little") + mode + text, data)
    path.write_bytes(out + block(0x7B, 0x4000, b""))
    return path


def _files(root: Path) -> dict[str, bytes]:
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith((".zip", ".tar", ".gz", ".rar"))}


def test_ucf101_as_downloaded(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in module._PROGRAMS):
        pytest.skip("no program here unpacks rar (Debian: apt-get install libarchive-tools)")
    videos = {"UCF-101/Archery/v_Archery_g01_c01.avi": b"one" * 999, "UCF-101/Biking/v_Biking_g01_c01.avi": b"two"}
    lists = {"ucfTrainTestlist/classInd.txt": b"1 Archery\n2 Biking\n"}
    _rar(tmp_path / "UCF101.rar", videos)
    _zip(tmp_path / "UCF101TrainTestSplits-RecognitionTask.zip", lists)
    done = unpack(DATASETS["ucf101"], tmp_path)
    assert [(item.files, item.skipped) for item in done] == [(2, False), (1, False)]
    there = _files(tmp_path)
    assert there.pop(RECEIPT)
    assert there == {**videos, **lists}
    assert all(item.skipped for item in unpack(DATASETS["ucf101"], tmp_path)), "a second run does nothing"


def test_a_missing_unpacker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rar(tmp_path / "UCF101.rar", {"a.avi": b"1"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VtokError, match=r"none of unrar, unar, 7zz, 7z, bsdtar") as caught:
        unpack(DATASETS["ucf101"], tmp_path)
    assert "apt-get install" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["UCF101.rar"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars(tmp_path: Path, mode: str) -> None:
    name = "a.tar" if mode == "w" else "a.tar.gz"
    _tar(tmp_path / name, {"x/1.mp4": b"1", "x/2.mp4": b"2"}, mode)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "0.mp4").write_bytes(b"0")
    unpack(ANY, tmp_path)
    assert {name for name in _files(tmp_path) if name != RECEIPT} == {"x/0.mp4", "x/1.mp4", "x/2.mp4"}


@pytest.mark.parametrize("cut", [512 * 3, 700, 200])
def test_a_cut_tar_leaves_nothing(tmp_path: Path, cut: int) -> None:
    archive = _tar(tmp_path / "a.tar", {"x/1.mp4": b"1" * 100, "x/2.mp4": b"2" * 100})
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match="damaged"):
        unpack(ANY, tmp_path)
    assert _files(tmp_path) == {}


@pytest.mark.parametrize("make", [_zip, _tar])
@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/tmp/vtok-outside.txt"])
def test_no_member_leaves_the_folder(tmp_path: Path, make: object, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    make(root / ("a.zip" if make is _zip else "a.tar"), {"good.mp4": b"1", name: b"bad"})  # type: ignore[operator]
    if make is _tar and name.startswith("/"):
        unpack(ANY, root)  # the name is made relative
    else:
        with pytest.raises(IntegrityError, match="outside"):
            unpack(ANY, root)
    assert not (tmp_path / "outside.txt").exists()
    assert not Path("/tmp/vtok-outside.txt").exists()


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with pytest.raises(IntegrityError, match="outside"):
        unpack(ANY, tmp_path)


def test_a_flipped_byte_in_a_zip(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"x.mp4": b"\0" * 1000})
    data = bytearray(archive.read_bytes())
    data[500] ^= 0x5A
    archive.write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged"):
        unpack(ANY, tmp_path)
    assert _files(tmp_path) == {}


def test_killed_half_way_and_run_again(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", {f"x/{i}.mp4": bytes([i]) for i in range(5)})
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom vtok.datasets import unpack as m\n"
        "from tests.datasets.test_unpack import ANY\nreplace, seen = Path.replace, []\n"
        "def dying(self, target):\n"
        "    seen.append(target)\n"
        "    if len(seen) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return replace(self, target)\n"
        "Path.replace = dying\nm.unpack(ANY, Path(sys.argv[1]))\n"
    )
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / RECEIPT).exists()
    unpack(ANY, tmp_path)
    assert {name for name in _files(tmp_path) if name != RECEIPT} == {f"x/{i}.mp4" for i in range(5)}


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset is called 'ucf'"):
        find_dataset("ucf")
    with pytest.raises(UsageError, match="no such folder"):
        unpack(DATASETS["bair"], tmp_path / "gone")
    with pytest.raises(UsageError, match=r"bair_robot_pushing_dataset_v0\.tar"):
        unpack(DATASETS["bair"], tmp_path)
    with pytest.raises(UsageError, match="without archives") as caught:
        unpack(DATASETS["taichi"], tmp_path)
    assert "taichi-metadata.csv" in caught.value.hint


def test_a_full_disk_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _zip(tmp_path / "a.zip", {"x.mp4": b"1" * 100})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(VtokError, match="unpacks to 100 B, and 10 B are free"):
        unpack(ANY, tmp_path)
