from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from schemas.config.data import DataConfig
from schemas.errors import UsageError
from tests.video.making import needs_real_clips, numbers, pinned_ffmpeg, real_clips, write_video
from vtok.video import decode, frames_pyav, reading
from vtok.video.clips import ClipSpan, plan_clips
from vtok.video.decode import decode_clips, read_video
from vtok.video.errors import VideoError
from vtok.video.probe import probe
from vtok.video.transforms import resize_crop_uint8

BACKENDS = ("pyav", "ffmpeg")
Backend = Literal["pyav", "ffmpeg"]


def _span(start: int, count: int, stride: int = 1) -> ClipSpan:
    return ClipSpan(start, stride, start / 25, (start + (count - 1) * stride + 1) / 25, None, count)


def _by_rate(start: float, count: int, rate: float) -> ClipSpan:
    return ClipSpan(None, None, start, start + count / rate, rate, count)


def _decode(path: Path, spans: list[ClipSpan], **options: Any) -> dict[int, Any]:
    found = list(decode_clips(path, probe(path), spans, **{"resolution": 96, **options}))
    assert sorted(i for i, _ in found) == list(range(len(spans)))
    return dict(found)


def _square(path: Path, count: int, **options: Any) -> Path:
    return write_video(path, count, size=(96, 96), **options)


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("policy", ["reference", "fast"])
def test_exact_frames_by_stride(decoder: Backend, policy: str, tmp_path: Path) -> None:
    path = _square(tmp_path / "a.mp4", 60)
    spans = [_span(0, 8), _span(3, 5, 7), _span(52, 8), _span(10, 1)]
    clips = _decode(path, spans, decoder=decoder, policy=policy)
    assert [numbers(clips[i]) for i in range(4)] == [
        list(range(8)),
        [3, 10, 17, 24, 31],
        list(range(52, 60)),
        [10],
    ]
    assert clips[0].shape == (8, 96, 96, 3)
    assert clips[0].dtype == np.uint8


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_variable_frame_rate_by_time(name: str, decoder: Backend, tmp_path: Path) -> None:
    stamps = [0, 40, 80, 400, 440, 1000, 1040, 1080]
    path = _square(tmp_path / name, 8, stamps=stamps)
    clip = _decode(path, [_by_rate(0.0, 10, 10.0)], decoder=decoder)[0]
    # displayed at 0, 0.1, 0.2, ... s: the last frame whose time has come
    assert numbers(clip) == [0, 2, 2, 2, 3, 4, 4, 4, 4, 4]
    assert numbers(_decode(path, [_by_rate(0.96, 3, 25.0)], decoder=decoder)[0]) == [4, 5, 6]


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_the_videos_own_rate_gives_every_frame_once(name: str, codec: str, tmp_path: Path) -> None:
    """Matroska rounds 1/30 s to whole milliseconds, which must neither repeat nor lose a frame."""
    path = _square(tmp_path / name, 60, codec=codec, fps=30)
    assert numbers(_decode(path, [_by_rate(0.0, 60, 30.0)])[0]) == list(range(60))
    assert numbers(_decode(path, [_by_rate(0.5, 15, 15.0)])[0]) == list(range(15, 45, 2))


def test_clips_by_time_beyond_the_end(tmp_path: Path) -> None:
    path = _square(tmp_path / "a.mp4", 25)
    clips = _decode(path, [_by_rate(0.0, 5, 5.0), _by_rate(0.4, 5, 5.0)])
    assert numbers(clips[0]) == [0, 5, 10, 15, 20]
    assert clips[1].reason == "missing_frames"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"preset": "veryfast"}),
        ("open.mp4", "libx264", {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3"}),
        ("a.mkv", "libx264", {"preset": "veryfast"}),
        ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
        ("a.ts", "libx264", {"preset": "veryfast"}),
    ],
)
def test_jumps_give_the_same_pixels(
    name: str, codec: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _square(tmp_path / name, 400, codec=codec, gop=30, options=options)
    spans = [_span(s, 6) for s in (4, 130, 131, 260, 390)]
    packets = 0
    decode_packet = reading.Reading._decode

    def counted(self: Any, *args: Any) -> Any:
        nonlocal packets
        packets += 1
        return decode_packet(self, *args)

    monkeypatch.setattr(reading.Reading, "_decode", counted)
    jumped = _decode(path, spans, resolution=48)
    with_jumps, packets = packets, 0
    monkeypatch.setattr(decode, "_is_useful", lambda *_: False)
    straight = _decode(path, spans, resolution=48)
    for i in range(len(spans)):
        np.testing.assert_array_equal(jumped[i], straight[i])
    if name != "a.ts":  # a transport stream may fall back to reading straight on
        assert with_jumps < packets / 2


def test_a_lying_timeline_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If time stamps cannot identify the frames after a jump, the pass starts over without jumps."""
    path = _square(tmp_path / "a.mp4", 300, gop=30)
    true = decode.read_timeline

    def lie(*args: Any, **limits: Any) -> Any:
        timeline = true(*args, **limits)
        return timeline._replace(pts=[pts + (7 if rank > 100 else 0) for rank, pts in enumerate(timeline.pts)])

    monkeypatch.setattr(decode, "read_timeline", lie)
    assert numbers(_decode(path, [_span(2, 3), _span(250, 4)])[1]) == [250, 251, 252, 253]


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """Only frames of unfinished clips are held."""
    path = _square(tmp_path / "a.mp4", 400, gop=50)
    held: list[int] = []
    true = frames_pyav.read_frames

    def watch(*args: Any, **kw: Any) -> Any:
        for item in true(*args, **kw):
            held.append(item[0])
            yield item

    run = decode_clips(path, probe(path), [_span(s, 4) for s in range(0, 396, 4)], resolution=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_pyav, "read_frames", watch)
        for done, (index, _) in enumerate(run):
            assert index == done
            assert held[-1] == 4 * done + 3  # a clip comes out with its last frame, before the next is decoded


@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_header_that_promises_too_much(decoder: Backend, tmp_path: Path) -> None:
    path = _square(tmp_path / "a.mp4", 20)
    facts = probe(path)._replace(frames=40)
    clips = dict(decode_clips(path, facts, [_span(0, 16), _span(16, 16)], resolution=96, decoder=decoder))
    assert numbers(clips[0]) == list(range(16))
    assert clips[1].reason == "missing_frames"


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("damage", ["cut", "zeros", "flips"])
def test_damaged_files_keep_their_sound_clips(damage: str, decoder: Backend, tmp_path: Path) -> None:
    # H.264 has no way to notice flipped bits in its residuals; MPEG-4 ASP has.
    codec = "mpeg4" if damage == "flips" else "libx264"
    path = _noisy(tmp_path / "a.mp4", 96, codec)
    spans = [_span(s, 8) for s in range(0, 96, 8)]
    sound = _decode(path, spans, resolution=32)
    data = bytearray(path.read_bytes())
    place = len(data) * 2 // 3
    if damage == "cut":
        del data[place:]
    elif damage == "zeros":
        data[place : place + 800] = bytes(800)
    else:
        for i in range(place, place + 300):
            data[i] ^= 0x5A
    path.write_bytes(data)
    clips = _decode(path, spans, resolution=32, decoder=decoder)
    good = [i for i in clips if not isinstance(clips[i], VideoError)]
    bad = {clips[i].reason for i in clips if i not in good}
    assert set(range(6)) <= set(good)
    assert len(good) < len(spans)
    assert bad <= {"corrupt", "missing_frames"}
    for i in good:  # whatever is called sound is sound
        np.testing.assert_array_equal(clips[i], sound[i])


def _noisy(path: Path, count: int, codec: str = "libx264") -> Path:
    """A video with the index in front and too much detail for the decoder to guess what is missing."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w", container_options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 96, 96, "yuv420p", 12
        stream.options = {"preset": "veryfast", "crf": "20"} if codec == "libx264" else {"qscale": "2"}
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (96, 96, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_too_large_frames_are_refused(tmp_path: Path) -> None:
    path = _square(tmp_path / "a.mp4", 10)
    for decoder in BACKENDS:
        assert _decode(path, [_span(0, 4)], decoder=decoder, max_pixels=96 * 95)[0].reason == "too_large"


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bt709", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colours(pix_fmt: str, bt709: bool, full_range: bool, tmp_path: Path) -> None:
    """Against the formula of the standards: Y'CbCr to R'G'B' with the stream's matrix and range."""
    y, u, v = 120, 90, 170
    path = tmp_path / "flat.mkv"
    deep = "10" in pix_fmt
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = (1 if bt709 else 5), (2 if full_range else 1)
        for number in range(3):
            frame = av.VideoFrame(32, 32, pix_fmt)
            for plane, value in zip(frame.planes, (y, u, v), strict=True):
                count = plane.buffer_size // (2 if deep else 1)
                plane.update(np.full(count, value * (4 if deep else 1), np.uint16 if deep else np.uint8).tobytes())
            frame.colorspace, frame.color_range, frame.pts = context.colorspace, context.color_range, number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    red, blue = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    luma = y / 255 if full_range else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full_range else 224) for c in (u, v))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    wanted = 255 * np.array([r, (luma - red * r - blue * b) / (1 - red - blue), b])
    for decoder in BACKENDS:
        clip = _decode(path, [_span(0, 3)], resolution=32, decoder=decoder)[0]
        assert np.abs(clip[1, 16, 16] - wanted).max() < 3  # libswscale's tables; a wrong matrix or range is off by 8


def test_the_box_is_cut_from_the_upright_frame(tmp_path: Path) -> None:
    path = _square(tmp_path / "a.mp4", 4)
    whole = _decode(path, [_span(0, 4)])[0]
    boxed = _decode(path, [_span(0, 4)], resolution=16, bbox=(10, 20, 58, 60), policy="fast")[0]
    np.testing.assert_array_equal(boxed, resize_crop_uint8(np.ascontiguousarray(whole[:, 20:60, 10:58]), 16))
    assert _decode(path, [_span(0, 4)], bbox=(0, 0, 97, 96))[0].reason == "corrupt"


def test_read_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a b\n.mp4", 30)
    assert numbers(read_video(path)) == list(range(30))
    assert numbers(read_video(path, start=5, num_frames=4, frame_stride=6)) == [5, 11, 17, 23]
    assert numbers(read_video(path, start=20, frame_stride=4)) == [20, 24, 28]
    assert read_video(path, resolution=32).shape == (30, 32, 32, 3)
    with pytest.raises(VideoError, match="missing_frames") as caught:
        read_video(path, start=20, num_frames=11)
    assert caught.value.at == str(path)
    with pytest.raises(VideoError, match="missing_frames"):
        read_video(path, start=30)
    with pytest.raises(UsageError):
        read_video(path, num_frames=0)


def test_messages_name_no_folder(tmp_path: Path) -> None:
    """Reject rows are the same on every machine."""
    path = _noisy(tmp_path / "a.mp4", 60)
    path.write_bytes(path.read_bytes()[:-20000])
    for decoder in BACKENDS:
        errors = list(_decode(path, [_span(s, 8) for s in range(0, 56, 8)], decoder=decoder).values())
        details = [e.detail for e in errors if isinstance(e, VideoError)]
        assert details
        assert not any(str(tmp_path) in d or re.search(r"0x[0-9a-f]{6}", d) for d in details)


@needs_real_clips
def test_both_backends_give_the_same_pixels_on_real_clips() -> None:
    for path in real_clips():
        if path.name == "truncated.mp4":
            continue
        facts = probe(path)
        for sampling in ({"frame_stride": 3}, {"frame_rate": 9.7}):
            count = 2 if facts.frames < 12 else 4
            config = DataConfig(root=".", num_frames=count, max_clips_per_video=3, clip_stride=2 * count, **sampling)
            if facts.frames < 7:
                continue
            spans = plan_clips(facts, config)
            a = dict(decode_clips(path, facts, spans, resolution=64))
            b = dict(decode_clips(path, facts, spans, resolution=64, decoder="ffmpeg"))
            for i in a:
                difference = np.abs(a[i].astype(int) - b[i]).mean()
                # Equal pixels at 8 bits; the two FFmpeg versions dither 10 bits differently.
                assert difference == 0 if path.name != "tenbit_4s.mp4" else difference < 1, path.name


@needs_real_clips
def test_rotation_agrees_with_the_ffmpeg_program() -> None:
    import subprocess

    for path in real_clips():
        if not path.name.startswith("rotat"):
            continue
        facts = probe(path)
        command = [pinned_ffmpeg(), "-loglevel", "error", "-i", str(path), "-frames:v", "1"]
        turned = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
        wanted = np.frombuffer(turned.stdout, np.uint8).reshape(facts.height, facts.width, 3)
        got = read_video(path, num_frames=1)[0]
        assert np.abs(got.astype(int) - wanted).mean() < 2, path.name
