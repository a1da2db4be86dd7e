"""What a file that is not what its name promises is instead, by its first bytes, and what to do about it."""

from __future__ import annotations

from pathlib import Path

LONGEST = 512
"""Bytes that are looked at."""

_LFS = b"version https://git-lfs"
_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, _LFS, "a Git LFS pointer, not the file itself: run `git lfs pull` where the dataset was cloned"),
    (0, b"\xff\xd8\xff", "a JPEG image: give it its own name, or read folders of images with data.layout: frames"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image: give it its own name, or read folders of images with data.layout: frames"),
    (8, b"WEBP", "a WebP image: give it its own name, or read folders of images with data.layout: frames"),
    (0, b"BM", "a BMP image: give it its own name, or read folders of images with data.layout: frames"),
    (0, b"\x1f\x8b", "compressed by gzip: unpack it (gunzip)"),
    (0, b"BZh", "compressed by bzip2: unpack it (bunzip2)"),
    (0, b"\xfd7zXZ\0", "compressed by xz: unpack it (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it (unzstd)"),
    (0, b"PK\x03\x04", "a ZIP archive: unpack it (unzip)"),
    (0, b"Rar!\x1a\x07", "a RAR archive: unpack it (unrar, unar)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it (7z)"),
    (257, b"ustar", "a tar: read it with data.layout: tars, under a name that ends in .tar"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file: read it with data.layout: hdf5, under a name that ends in .h5"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"#EXTM3U", "a playlist, which names other files: download what it names"),
    (0, b"ID3", "sound (MP3)"),
    (8, b"WAVE", "sound (WAV)"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def what_it_is(path: str | Path, wanted: str = "video") -> str | None:
    """In a few words what a file is instead of what it should be, and what to do; None if it cannot be told.

    Args:
        path: the file.
        wanted: `video`, `image`, `tar` or `HDF5 file`: a damaged one is none of the others.
    """
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(LONGEST)
    except OSError:
        return None
    if head and not head.strip(b"\0"):
        return "zeros only: a download that was never filled"
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if page.startswith(_PAGES):
        return "a web page or XML, not the file itself: the download was answered by a page; download it again"
    said = next((said for at, magic, said in _KINDS if head[at:].startswith(magic)), None)
    return None if said is not None and wanted in said.partition(":")[0] else said
