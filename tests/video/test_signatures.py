"""Files that are not what their names promise say what they are, and what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtok.video.errors import VideoError
from vtok.video.media.hdf5 import open_hdf5
from vtok.video.media.images import open_frames
from vtok.video.media.tar import scan_tar
from vtok.video.probe import probe
from vtok.video.signatures import what_it_is


def _image(form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, form)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.mp4"))
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CASES = {
    "a Git LFS pointer": LFS,
    "a JPEG image": _image("JPEG"),
    "a PNG image": _image("PNG"),
    "a WebP image": _image("WEBP"),
    "a BMP image": _image("BMP"),
    "compressed by gzip": gzip.compress(b"x" * 600),
    "a tar:": _tar(),
    "a web page": b"\n<!DOCTYPE html><html>Sign in to continue</html>",
    "a playlist": b"#EXTM3U\nhttp://x.org/a.ts\n",
    "zeros only": bytes(5000),
}


@pytest.mark.parametrize("said", CASES)
def test_what_a_file_is_instead_of_a_video(said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(CASES[said])
    with pytest.raises(VideoError, match=said) as caught:
        probe(path)
    assert caught.value.reason == "unreadable"
    assert str(tmp_path) not in caught.value.detail


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 50)
    assert what_it_is(tmp_path / "a.mp4") is None
    with pytest.raises(VideoError, match="Invalid data"):
        probe(tmp_path / "a.mp4")


def test_other_media_say_so_too(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(LFS)
    with pytest.raises(VideoError, match="a Git LFS pointer"), open_hdf5(tmp_path / "a.h5"):
        pass
    (tmp_path / "0001.png").write_bytes(LFS)
    with pytest.raises(VideoError, match=r"0001\.png: a Git LFS pointer"), open_frames(tmp_path, None, 25.0):
        pass


def test_a_damaged_file_is_not_told_to_be_what_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "0001.jpg").write_bytes(_image("JPEG")[:30])
    with pytest.raises(VideoError) as caught, open_frames(tmp_path, None, 25.0):
        pass
    assert "JPEG" not in caught.value.detail
    tar = bytearray(_tar())
    tar[0] ^= 1
    (tmp_path / "a.tar").write_bytes(tar)
    with pytest.raises(VideoError, match="not a tar: ") as caught:
        list(scan_tar(tmp_path / "a.tar"))
    assert "data.layout" not in caught.value.detail
