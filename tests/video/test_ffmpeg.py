from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import VtokError
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import decoder_version, ffmpeg_binary, ffmpeg_version
from vtok.video.probe import probe


def test_the_binary_runs() -> None:
    assert subprocess.run([ffmpeg_binary(), "-version"], capture_output=True, check=True).stdout.startswith(b"ffmpeg")


def test_the_named_binary_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "my-ffmpeg"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(named))
    assert ffmpeg_binary() == str(named)


def test_a_named_binary_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(VtokError, match="IMAGEIO_FFMPEG_EXE") as caught:
        ffmpeg_binary()
    assert caught.value.hint
    assert caught.value.at == "/nowhere/ffmpeg"


def another_program(folder: Path, version: str = "5.1.9-0+deb12u1") -> Path:
    """A program that says it is another ffmpeg, in a folder of its own."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright (c)'\n")
    program.chmod(0o755)
    return program


def test_the_shipped_binary_goes_before_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{another_program(tmp_path).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    assert "imageio_ffmpeg" in ffmpeg_binary()


def test_without_the_shipped_one_path_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = another_program(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert ffmpeg_binary() == str(program)
    assert ffmpeg_version() == "5.1.9-0+deb12u1"
    assert decoder_version("ffmpeg") == "ffmpeg 5.1.9-0+deb12u1"


def test_without_path_the_shipped_binary_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    assert "imageio_ffmpeg" in ffmpeg_binary()


def test_what_is_no_ffmpeg_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "something"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(VtokError, match="no ffmpeg program") as caught:
        ffmpeg_version()
    assert caught.value.at == str(program)


def test_no_binary_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VtokError, match="no ffmpeg") as caught:
        ffmpeg_binary()
    assert "install" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile {0}\n", "#EXTM3U\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n", "{0}\n"]
)
def test_playlists_open_no_other_files(text: str, tmp_path: Path) -> None:
    from tests.video.making import write_video

    other = write_video(tmp_path / "other.mp4", 3)
    trap = tmp_path / "trap.mp4"
    trap.write_text(text.format(other.name))
    with pytest.raises(VideoError) as caught:
        probe(trap)
    assert caught.value.reason == "unreadable"
