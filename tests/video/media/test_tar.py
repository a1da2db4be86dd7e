from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vtok.video.errors import VideoError
from vtok.video.media.tar import Member, open_member, scan_tar


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("a.mp4", b"first" * 300), ("a.txt", b"text"), ("b.MP4", b"second"), ("c.bin", b"other")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _points_at(descriptor: Path, path: Path) -> bool:
    try:
        return descriptor.readlink() == path
    except OSError:  # closed meanwhile
        return False


def test_scan_and_open(tar: Path) -> None:
    members = list(scan_tar(tar))
    assert members == [Member("a.mp4", 0), Member("a.txt", 2048, b"text"), Member("b.MP4", 3072)]
    for member, data in ((members[0], b"first" * 300), (members[2], b"second")):
        with open_member(tar, f"{member.name}@{member.offset}") as opened:
            assert opened.path.read_bytes() == data and opened.bytes == len(data)
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if _points_at(fd, tar)]


@pytest.mark.parametrize("item", ["a.mp4@3072", "a.mp4@512", "a.mp4@99999999", "gone.mp4@0", "a.mp4@x", "a.mp4@-512"])
def test_a_member_that_is_not_where_it_was(item: str, tar: Path) -> None:
    with pytest.raises(VideoError) as caught, open_member(tar, item):
        pass
    assert caught.value.reason in ("changed", "unreadable")


def test_a_tar_that_is_gone_or_shorter(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(VideoError) as caught, open_member(tar, "a.mp4@0"):
        pass
    assert caught.value.reason in ("missing_frames", "unreadable")
    tar.unlink()
    for read in (lambda: list(scan_tar(tar)), lambda: open_member(tar, "a.mp4@0").__enter__()):
        with pytest.raises(VideoError) as caught:
            read()
        assert caught.value.reason == "vanished"


def test_texts_larger_than_any_caption_are_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = (1 << 20) + 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    assert list(scan_tar(tmp_path / "a.tar")) == []
