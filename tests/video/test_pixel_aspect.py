"""Pixels that are not square: taken as if they were, or resized to what a viewer is shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.hostile import run_ffmpeg
from vtok.video.child import DecodeChild
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.probe import StreamFacts, probe
from vtok.video.transforms import resize, resize_crop_uint8

_SPANS = [ClipSpan(0, 1, 0, 3 / 25, None, 3)]


def _write(path: Path, picture: np.ndarray, aspect: Fraction) -> Path:
    height, width = picture.shape
    square = path.with_name(f"square-{path.name}")
    with av.open(str(square), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, axis=2), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = aspect * width / height
    run_ffmpeg("-i", square, "-c", "copy", "-aspect", f"{shown.numerator}:{shown.denominator}", path)
    return path


def _picture(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.kron(random.integers(0, 256, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "aspect", "shown"),
    [
        (64, 96, Fraction(2, 3), (64, 64)),  # as anamorphic SVCD
        (64, 96, Fraction(4, 3), (64, 128)),
        (96, 48, Fraction(2, 1), (96, 96)),
        (48, 96, Fraction(1, 3), (72, 48)),  # a wide frame that is shown upright
    ],
)
def test_shown_proportions_on_request(
    height: int, width: int, aspect: Fraction, shown: tuple[int, int], tmp_path: Path
) -> None:
    picture = _picture(height, width)
    path = _write(tmp_path / "a.mkv", picture, aspect)
    facts = probe(path)
    assert (facts.height, facts.width, facts.pixel_aspect) == (height, width, pytest.approx(float(aspect)))
    frame = np.repeat(picture[None, ..., None], 3, axis=3)
    side = min(height, width) if shown != (72, 48) else 32
    scale = side / min(height, round(width * aspect))
    tall, wide = round(height * scale), round(round(width * aspect) * scale)
    whole = np.rint(resize(frame, tall, wide)).astype(np.uint8)[0]
    top, left = (tall - side) // 2, (wide - side) // 2
    wanted = whole[top : top + side, left : left + side]
    for decoder in ("pyav", "ffmpeg"):
        plain = dict(decode_clips(path, facts, _SPANS, resolution=side, decoder=decoder))[0]
        np.testing.assert_array_equal(plain[0], resize_crop_uint8(frame, side)[0])
        applied = dict(decode_clips(path, facts, _SPANS, resolution=side, decoder=decoder, pixel_aspect="apply"))[0]
        np.testing.assert_array_equal(applied[0], wanted)
        fast = {"decoder": decoder, "pixel_aspect": "apply", "policy": "fast"}
        quick = dict(decode_clips(path, facts, _SPANS, resolution=side, **fast))[0]
        assert np.abs(quick[0].astype(int) - wanted).mean() < 20


def test_a_box_is_given_in_stored_pixels(tmp_path: Path) -> None:
    """The left half of a frame of 64x96 whose pixels are 4/3 wide: 64x48 stored, shown square."""
    picture = _picture(64, 96)
    path = _write(tmp_path / "a.mkv", picture, Fraction(4, 3))
    facts, options = probe(path), {"resolution": 64, "bbox": (0, 0, 48, 64), "pixel_aspect": "apply"}
    clip = dict(decode_clips(path, facts, _SPANS, **options))[0]
    half = np.repeat(picture[None, :, :48, None], 3, axis=3)
    np.testing.assert_array_equal(clip[0], np.rint(resize(half, 64, 64)).astype(np.uint8)[0])


def test_the_child_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _picture(64, 96), Fraction(2, 3))
    facts = probe(path)
    common = {"source_bytes": path.stat().st_size, **facts._asdict(), "medium": None, "item": None, "bbox": None}
    row = {**common, **_SPANS[0]._asdict()}
    settings = {"resolution": 64, "policy": "reference", "decoder": "pyav", "max_pixels": 1 << 20, "cpu_seconds": 60.0}
    child = DecodeChild()
    try:
        ((_, clip),) = child.decode(str(path), [row], **settings, pixel_aspect="apply")
    finally:
        child.close()
    wanted = dict(decode_clips(path, facts, _SPANS, resolution=64, pixel_aspect="apply"))[0]
    np.testing.assert_array_equal(clip.frames_thwc, wanted)


def test_a_manifest_of_an_older_vtok_has_square_pixels() -> None:
    assert StreamFacts(0, "h264", 25.0, 64, 96, 3, True, 0.12, 0, False).pixel_aspect == 1
