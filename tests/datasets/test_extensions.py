"""Every kind of file that a demuxer may open is tried, in folders and in tars, whatever its name ends in."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.reading import make
from tests.datasets.test_tars import write_tar
from tests.video.making import numbered_frame, numbers
from vtok.datasets.base import find_videos
from vtok.video.extensions import EXTENSIONS

KINDS: dict[str, tuple[str, str, str]] = {
    "avi": ("avi", "mpeg4", ".avi .divx .xvid"),
    "mp4": ("mp4", "mpeg4", ".mp4 .m4v .mp4v .lrv .insv .ismv .m4s"),
    "3gp": ("3gp", "mpeg4", ".3gp"),
    "3g2": ("3g2", "mpeg4", ".3g2"),
    "f4v": ("f4v", "libx264", ".f4v"),
    "mov": ("mov", "mpeg4", ".mov .qt .mj2"),
    "matroska": ("matroska", "mpeg4", ".mkv .mk3d"),
    "webm": ("webm", "libvpx", ".webm"),
    "mpegts": ("mpegts", "mpeg2video", ".ts .mts .m2ts .m2t .tp .trp"),
    "mpeg": ("mpeg", "mpeg1video", ".mpg .mpeg .mpe .m2p .tod"),
    "vob": ("vob", "mpeg2video", ".vob .vro .evo"),
    "mpeg1video": ("mpeg1video", "mpeg1video", ".m1v"),
    "mpeg2video": ("mpeg2video", "mpeg2video", ".m2v .mpv"),
    "h264": ("h264", "libx264", ".h264 .264 .avc .h26l"),
    "hevc": ("hevc", "libx265", ".hevc .h265 .265"),
    "asf": ("asf", "msmpeg4", ".asf .wmv"),
    "flv": ("flv", "flv", ".flv"),
    "gif": ("gif", "gif", ".gif"),
    "rm": ("rm", "rv10", ".rm .rmvb"),
    "mxf": ("mxf", "mpeg2video", ".mxf"),
    "nut": ("nut", "mpeg4", ".nut"),
    "ivf": ("ivf", "libvpx", ".ivf"),
    "obu": ("obu", "libsvtav1", ".obu"),
    "dv": ("dv", "dvvideo", ".dv"),
    "ogg": ("ogg", "libvpx", ".ogg .ogv .ogm .ogx"),
    "y4m": ("yuv4mpegpipe", "wrapped_avframe", ".y4m"),
}
"""By name: format, encoder, and the endings that such files have."""


def _write(path: Path, form: str, codec: str) -> None:
    height, width = (576, 720) if codec == "dvvideo" else (144, 176) if codec == "rv10" else (64, 96)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = height, width
        stream.pix_fmt = "bgr8" if codec == "gif" else "yuv420p"
        if codec in ("libx264", "libx265"):
            stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none"}
        for number in range(6):
            square = numbered_frame(number, height, height)  # what a clip's crop leaves
            sides = (width - height) // 2
            frame = av.VideoFrame.from_ndarray(np.pad(square, ((0, 0), (sides, sides), (0, 0)), "edge"), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """From each ending to a file of 6 numbered frames."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {}
    for name, (form, codec, endings) in KINDS.items():
        _write(folder / name, form, codec)
        made |= dict.fromkeys(endings.split(), (folder / name).read_bytes())
    return made


def test_the_table_has_every_ending() -> None:
    assert sorted(" ".join(endings for _, _, endings in KINDS.values()).split()) == sorted(EXTENSIONS)


def test_in_a_folder(files: dict[str, bytes], tmp_path: Path) -> None:
    for number, (ending, data) in enumerate(files.items()):
        (tmp_path / f"{number}{ending.upper() if number % 2 else ending}").write_bytes(data)
    (tmp_path / "notes.txt").write_text("no video")
    assert len(find_videos(tmp_path)) == len(files)
    made = make(tmp_path, "folder", num_frames=2, windows="first", test_fraction=0.0)
    assert made.rejects == []
    assert [numbers(clips[0].frames_thwc) for clips in made.clips.values()] == [[0, 1]] * len(files)


def test_in_a_tar(files: dict[str, bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [(f"{i}{ending}", data) for i, (ending, data) in enumerate(files.items())])
    made = make(tmp_path, "tars", num_frames=2, windows="first")
    assert made.rejects == [] and len(made.clips) == len(files)
    assert [numbers(clips[0].frames_thwc) for clips in made.clips.values()] == [[0, 1]] * len(files)
