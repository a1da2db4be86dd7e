"""A corpus of videos that are odd, damaged or lying, and what is right for each of them.

Every frame carries its number (`tests.video.making`), so that a wrong, repeated or missing frame is noticed.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av

from tests.video.making import numbered_frame, pinned_ffmpeg, write_audio, write_video

SIDE = 96  # frames are squares unless a case says otherwise


class Hostile(NamedTuple):
    """One file.

    Attributes:
        path: where it is.
        reason: why `probe` must refuse it; None: it must not.
        numbers: the numbers that its frames carry, in order; None for a frame that cannot be had.
        height, width: of the upright frames, pixels.
        rotation: degrees counter-clockwise.
        strict: whether the ffmpeg program, which gives up at the first error, has all the frames that PyAV has.
    """

    path: Path
    reason: str | None = None
    numbers: Sequence[int | None] = ()
    height: int = SIDE
    width: int = SIDE
    rotation: int = 0
    strict: bool = True


def write_hostile(folder: Path) -> dict[str, Hostile]:
    """Writes the whole corpus; a few hundred kilobytes."""
    folder.mkdir(parents=True, exist_ok=True)
    return {make.__name__.strip("_"): make(folder) for make in _MAKERS}


def run_ffmpeg(*arguments: str | Path) -> None:
    """Runs the ffmpeg program.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run([pinned_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def remux(source: Path, target: Path, keep: Callable[[int], bool]) -> Path:
    """Copies the packets, counted in file order, that `keep` chooses."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if keep(number):
                packet.stream = stream
                new.mux(packet)
    return target


def _square(path: Path, count: int, **options: object) -> Path:
    return write_video(path, count, **{"size": (SIDE, SIDE), **options})  # type: ignore[arg-type]


def _zero_bytes(folder: Path) -> Hostile:
    path = folder / "zero.mp4"
    path.write_bytes(b"")
    return Hostile(path, "empty")


def _no_index(folder: Path) -> Hostile:
    """Its end, where the index of an MP4 lies, is missing."""
    path = _square(folder / "no_index.mp4", 30)
    path.write_bytes(path.read_bytes()[:-2500])
    return Hostile(path, "unreadable")


def _text(folder: Path) -> Hostile:
    path = folder / "text.mp4"
    path.write_text("a page that says: 404, not found\n" * 100)
    return Hostile(path, "unreadable")


def _audio_only(folder: Path) -> Hostile:
    return Hostile(write_audio(folder / "sound.mp4"), "no_video")


def _truncated_data(folder: Path) -> Hostile:
    """The index is in front and sound; the last of the data is missing."""
    path = _square(folder / "cut.mp4", 40, container_options={"movflags": "+faststart"}, gop=5)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[24] + 3])  # packet 25 begins a group of pictures
    return Hostile(path, numbers=[*range(25), *[None] * 15])


def _one_frame(folder: Path) -> Hostile:
    return Hostile(_square(folder / "one.mp4", 1), numbers=[0])


def _headless(folder: Path) -> Hostile:
    """The first key frame is missing: what was predicted from it cannot be had."""
    whole = _square(folder / "whole.mkv", 36, gop=12, options={"preset": "veryfast", "bf": "0"})
    return Hostile(
        remux(whole, folder / "headless.mkv", lambda number: number >= 3),
        numbers=[*[None] * 9, *range(12, 36)],
        strict=False,
    )


def _headless_mpeg4(folder: Path) -> Hostile:
    """The same where decoders give garbage without saying so."""
    whole = _square(folder / "whole4.mkv", 36, gop=12, codec="mpeg4")
    path = remux(whole, folder / "headless4.mkv", lambda number: number >= 3)
    return Hostile(path, numbers=[*[None] * 9, *range(12, 36)], strict=False)


def _edit_list(folder: Path) -> Hostile:
    """Cut without encoding: the first frames are there to predict from, and are not shown."""
    path = folder / "edit.mp4"
    run_ffmpeg("-ss", "0.62", "-i", _square(folder / "uncut.mp4", 50, gop=12), "-c", "copy", path)
    return Hostile(path, numbers=list(range(16, 50)))


def _variable_rate(folder: Path) -> Hostile:
    stamps = [0, 40, 80, 400, 440, 1000, 1040, 1080, 1100, 3000]
    return Hostile(_square(folder / "vfr.mkv", 10, stamps=stamps), numbers=list(range(10)))


def _wrong_duration(folder: Path) -> Hostile:
    """All headers say ten times as long."""
    path = _square(folder / "duration.mp4", 30)
    data = bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(box) + offset
        data[at : at + 4] = struct.pack(">I", 10 * struct.unpack(">I", data[at : at + 4])[0])
    path.write_bytes(data)
    return Hostile(path, numbers=list(range(30)))


def _wrong_duration_mkv(folder: Path) -> Hostile:
    """The same in Matroska, where the duration is a float with the ID 4489."""
    path = _square(folder / "duration.mkv", 30)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", 10 * struct.unpack(">d", data[at : at + 8])[0])
    path.write_bytes(data)
    return Hostile(path, numbers=list(range(30)))


def _wrong_count(folder: Path) -> Hostile:
    """An AVI whose headers promise twice the frames that it has."""
    path = _square(folder / "count.avi", 30, codec="mpeg4")
    data = bytearray(path.read_bytes())
    for box, offset in ((b"avih", 24), (b"strh", 40)):
        at = data.index(box) + offset
        assert struct.unpack("<I", data[at : at + 4]) == (30,)
        data[at : at + 4] = struct.pack("<I", 60)
    path.write_bytes(data)
    return Hostile(path, numbers=list(range(30)))


def _xvid_b_frames(folder: Path) -> Hostile:
    """Packed B-frames in an AVI, which has no time stamps; decoders tend to lose the last frame."""
    path = folder / "xvid.avi"
    run_ffmpeg("-i", _square(folder / "source.mkv", 30), "-c:v", "libxvid", "-bf", "2", "-q:v", "2", path)
    return Hostile(path, numbers=list(range(28)))


def _hidden_frames(folder: Path) -> Hostile:
    """VP8 with frames that are never shown."""
    options = {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "7"}
    path = _square(folder / "hidden.webm", 60, codec="libvpx", options=options, gop=60)
    return Hostile(path, numbers=list(range(60)))


def _ten_bit(folder: Path) -> Hostile:
    path = _square(folder / "ten.mkv", 12, codec="libx264", pix_fmt="yuv420p10le")
    return Hostile(path, numbers=list(range(12)))


def _full_range(folder: Path) -> Hostile:
    return Hostile(_square(folder / "full.mkv", 12, codec="mjpeg", pix_fmt="yuvj420p"), numbers=list(range(12)))


def _rotated(degrees: int) -> Callable[[Path], Hostile]:
    def make(folder: Path) -> Hostile:
        path = folder / f"rotated{degrees}.mp4"
        upright = write_video(folder / "upright.mp4", 12)
        run_ffmpeg("-display_rotation", degrees, "-i", upright, "-c", "copy", path)
        height, width = (64, 96) if degrees == 180 else (96, 64)
        return Hostile(path, numbers=list(range(12)), height=height, width=width, rotation=degrees)

    make.__name__ = f"rotated_{degrees}"
    return make


def _odd_size(folder: Path) -> Hostile:
    path = write_video(folder / "odd.mkv", 12, codec="ffv1", size=(73, 109), options={})
    return Hostile(path, numbers=list(range(12)), height=73, width=109)


def _huge(folder: Path) -> Hostile:
    path = folder / "huge.avi"
    run_ffmpeg("-f", "lavfi", "-i", "color=s=8208x8208", "-frames:v", "1", "-c:v", "mjpeg", path)
    return Hostile(path, numbers=[0], height=8208, width=8208)


def _several_streams(folder: Path) -> Hostile:
    """The second one is the larger one; Matroska has no count of its frames."""
    path = folder / "several.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for side in (48, SIDE, 24):
            stream = container.add_stream("libx264", rate=25)
            stream.height = stream.width = side
            stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast"}
            streams.append((stream, side))
        for number in range(12):
            for stream, side in streams:
                shown = number if side == SIDE else 4095
                frame = av.VideoFrame.from_ndarray(numbered_frame(shown, side, side), format="rgb24")
                container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode())
    return Hostile(path, numbers=list(range(12)))


def _named(name: str) -> Callable[[Path], Hostile]:
    def make(folder: Path) -> Hostile:
        return Hostile(_square(folder / "plain.mp4", 12).rename(folder / name), numbers=list(range(12)))

    make.__name__ = f"named {name}"
    return make


_MAKERS: list[Callable[[Path], Hostile]] = [
    _zero_bytes,
    _no_index,
    _text,
    _audio_only,
    _truncated_data,
    _one_frame,
    _headless,
    _headless_mpeg4,
    _edit_list,
    _variable_rate,
    _wrong_duration,
    _wrong_duration_mkv,
    _wrong_count,
    _xvid_b_frames,
    _hidden_frames,
    _ten_bit,
    _full_range,
    _rotated(90),
    _rotated(180),
    _rotated(270),
    _odd_size,
    _huge,
    _several_streams,
    _named("two  spaces.mp4"),
    _named("línea\nnueva 漢 %d 'q'\".mp4"),
    _named("-i.mp4"),
]
NAMES = [make.__name__.strip("_") for make in _MAKERS]
