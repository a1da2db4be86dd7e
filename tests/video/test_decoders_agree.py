"""PyAV and the ffmpeg program give equal bytes, whatever is odd about a file's pixels.

Compared are both policies, at sizes that make libswscale scale and at sizes that do not.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.video.hostile import run_ffmpeg
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips, read_video
from vtok.video.ffmpeg import ffmpeg_binary
from vtok.video.probe import probe

_H264 = ("-c:v", "libx264", "-preset", "veryfast")
_INTERLACED = ("-vf", "setfield=tff", "-flags", "+ildct+ilme")

QUICK: dict[str, tuple[str, tuple[str, ...]]] = {
    "H.264, chroma at the left": ("a.mp4", (*_H264, "-pix_fmt", "yuv420p")),
    "H.264, chroma in the corner": ("a.mkv", (*_H264, "-pix_fmt", "yuv420p", "-x264-params", "chromaloc=2")),
    "H.264 interlaced": ("a.ts", (*_H264, "-pix_fmt", "yuv420p", *_INTERLACED, "-x264-params", "tff=1")),
    "H.264 interlaced, 10 bits": ("a.mkv", (*_H264, "-pix_fmt", "yuv420p10le", *_INTERLACED, "-x264-params", "tff=1")),
    "MPEG-2 interlaced": ("a.mpg", ("-c:v", "mpeg2video", "-q:v", "2", *_INTERLACED)),
    "HEVC, 10 bits": ("a.mp4", ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=none")),
    "HEVC, grey": ("a.mp4", ("-c:v", "libx265", "-pix_fmt", "gray", "-x265-params", "log-level=none")),
    "MJPEG 4:2:2": ("a.avi", ("-c:v", "mjpeg", "-pix_fmt", "yuvj422p", "-q:v", "2")),
    "FFV1 with alpha": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuva420p")),
    "QuickTime ARGB": ("a.mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
    "GIF": ("a.gif", ()),
    "PNG with a palette": ("a.mkv", ("-c:v", "png", "-pix_fmt", "pal8")),
    "raw YUYV": ("a.avi", ("-c:v", "rawvideo", "-pix_fmt", "yuyv422")),
    "raw, a bit a pixel": ("a.nut", ("-c:v", "rawvideo", "-pix_fmt", "monow")),
}
LONG: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"H.264, chroma location {place}": (
            "a.mkv",
            (*_H264, "-pix_fmt", "yuv420p", "-x264-params", f"chromaloc={place}"),
        )
        for place in (0, 1, 3, 4, 5)
    },
    **{
        f"FFV1 {name} {scale}": ("a.mkv", ("-c:v", "ffv1", "-strict", "-2", "-pix_fmt", name, "-color_range", scale))
        for name in (
            *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuv420p10le", "yuv422p12le"),
            *("yuv444p16le", "gray", "gray10le", "gray12le", "gray16le", "yuva444p10le"),
        )
        for scale in ("tv", "pc")
    },
    **{
        f"FFV1 {name}": ("a.mkv", ("-c:v", "ffv1", "-strict", "-2", "-pix_fmt", name))
        for name in ("bgra", "bgr0", "rgb48le", "gbrp10le")
    },
    **{
        f"raw {name}": ("a.nut", ("-c:v", "rawvideo", "-pix_fmt", name))
        for name in ("uyvy422", "bgr24", "rgb565le", "nv12", "gray", "monob")
    },
    "HEVC, 12 bits": ("a.mp4", ("-c:v", "libx265", "-pix_fmt", "yuv420p12le", "-x265-params", "log-level=none")),
    "AV1, grey": ("a.mkv", ("-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "gray10le")),
    "VP9 with alpha": ("a.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p")),
    "DV, PAL": ("a.mov", ("-c:v", "dvvideo", "-pix_fmt", "yuv420p", "-s", "720x576")),
    "DV, NTSC": ("a.mov", ("-c:v", "dvvideo", "-pix_fmt", "yuv411p", "-s", "720x480")),
    "ProRes 4444": ("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le")),
}


def _agree(path: Path) -> None:
    facts = probe(path)
    count = min(3, facts.frames)
    spans = [ClipSpan(0, 1, 0, count / facts.fps, None, count)]
    for policy in ("reference", "fast"):
        for resolution in (31, 32, min(facts.height, facts.width)):
            options = {"resolution": resolution, "policy": policy}
            clips = [dict(decode_clips(path, facts, spans, decoder=d, **options))[0] for d in ("pyav", "ffmpeg")]
            np.testing.assert_array_equal(*clips, f"{policy} at {resolution}")


def _make(path: Path, arguments: tuple[str, ...], size: str) -> Path:
    run_ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=0.16", *arguments, path)
    return path


@pytest.mark.parametrize("kind", QUICK)
def test_bytes_are_equal(kind: str, tmp_path: Path) -> None:
    name, arguments = QUICK[kind]
    _agree(_make(tmp_path / name, arguments, "98x68"))


@pytest.mark.soak
@pytest.mark.parametrize("kind", LONG)
def test_bytes_are_equal_in_rarer_kinds(kind: str, tmp_path: Path) -> None:
    name, arguments = LONG[kind]
    _agree(_make(tmp_path / name, arguments, "98x68"))


def test_a_crop_of_the_bitstream_is_exact(tmp_path: Path) -> None:
    """8 columns at the left, 4 at the right, 4 rows at the top and 2 at the bottom, cut off without re-encoding."""
    whole = _make(tmp_path / "whole.mp4", (*_H264, "-pix_fmt", "yuv420p"), "112x80")
    cut = tmp_path / "cut.mp4"
    sides = "crop_left=8:crop_right=4:crop_top=4:crop_bottom=2"
    run_ffmpeg("-i", whole, "-c", "copy", "-bsf:v", f"h264_metadata={sides}", cut)
    assert (probe(cut).height, probe(cut).width) == (74, 100)
    np.testing.assert_array_equal(read_video(cut), read_video(whole)[:, 4:-2, 8:-4])
    _agree(cut)


def test_a_crop_of_the_container_alone_is_not_done(tmp_path: Path) -> None:
    """Matroska's PixelCropLeft and PixelCropTop, put where DisplayWidth and DisplayHeight were."""
    whole = _make(tmp_path / "whole.mkv", (*_H264, "-pix_fmt", "yuv420p", "-aspect", "1:1"), "112x80")
    data = bytearray(whole.read_bytes())
    for display, crop, pixels in ((b"\x54\xb0\x81", b"\x54\xcc\x81", 8), (b"\x54\xba\x81", b"\x54\xbb\x81", 4)):
        place = data.index(display)
        data[place : place + 4] = crop + bytes([pixels])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data)
    said = subprocess.run([ffmpeg_binary(), "-i", str(cut)], capture_output=True, text=True, check=False).stderr
    assert "112x80" in said
    np.testing.assert_array_equal(read_video(cut), read_video(whole))
    _agree(cut)


_GREYS = (16, 17, 50, 125, 180, 234, 235)


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *(("ffv1", name) for name in ("gray", "gray10le", "gray12le", "gray16le")),
        *(("libx265", name) for name in ("gray", "gray10le", "gray12le")),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_grey_has_the_range_of_its_tag(codec: str, name: str, full: bool, tmp_path: Path) -> None:
    """Seven greys, the ends of the limited range among them: by the formula of the standards, from lossless files."""
    bits = int(name[4:6] or 8)
    rows = np.repeat(np.array(_GREYS, np.uint32) << (bits - 8), 8)
    picture = np.broadcast_to(rows[:, None], (56, 64)).astype(np.uint8 if bits == 8 else "<u2")
    (tmp_path / "raw").write_bytes(picture.tobytes() * 2)
    source = ("-f", "rawvideo", "-pix_fmt", name, "-s", "64x56", "-color_range", "pc" if full else "tv")
    kind = ("-c:v", codec, "-x265-params", f"log-level=none:lossless=1:range={'full' if full else 'limited'}")
    kind = kind if codec == "libx265" else ("-c:v", codec, "-strict", "-2", "-color_range", "pc" if full else "tv")
    path = tmp_path / "a.mkv"
    run_ffmpeg(*source, "-i", tmp_path / "raw", *kind, path)
    greys = np.array(_GREYS)
    wanted = greys / (255 if full else 1) if full else (greys - 16) / 219
    wanted = 255 * wanted if not full or bits == 8 else 255 * (greys << (bits - 8)) / ((1 << bits) - 1)
    shown = read_video(path)[0, 4::8, 20]
    assert np.abs(shown - wanted[:, None]).max() <= 1
    if not full:
        assert (shown[0] == 0).all()
        assert (shown[-1] == 255).all()
    _agree(path)


def test_alpha_is_laid_over_black(tmp_path: Path) -> None:
    """A third is opaque, a third half, a third clear; the colours below are 200, 100, 50."""
    picture = np.empty((48, 48, 4), np.uint8)
    picture[...] = (200, 100, 50, 255)
    picture[:, 16:32, 3], picture[:, 32:, 3] = 128, 0
    (tmp_path / "raw").write_bytes(picture.tobytes() * 2)
    source = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", "48x48", "-i", tmp_path / "raw")
    for name, arguments in {
        "a.mov": ("-c:v", "png", "-pix_fmt", "rgba"),
        "b.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
        "c.mkv": ("-c:v", "ffv1", "-pix_fmt", "bgra"),
    }.items():
        run_ffmpeg(*source, *arguments, tmp_path / name)
        shown = read_video(tmp_path / name)[0]
        assert shown[:, :16].tolist() == [[[200, 100, 50]] * 16] * 48
        assert shown[:, 16:32].tolist() == [[[100, 50, 25]] * 16] * 48
        assert (shown[:, 32:] == 0).all()
        _agree(tmp_path / name)
