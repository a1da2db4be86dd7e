"""Every mode that Pillow has, every EXIF orientation: the truth is the formula, or the ffmpeg program's PNG decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageMode

from tests.video.hostile import run_ffmpeg
from vtok.video.decode import read_video
from vtok.video.media.images import open_frames
from vtok.video.media.rgb import rgb_of

_CONSTANT: dict[str, tuple[Image.Image, tuple[int, int, int]]] = {
    "1": (Image.new("1", (4, 3), 1), (255, 255, 255)),
    "L": (Image.new("L", (4, 3), 77), (77, 77, 77)),
    "LA": (Image.new("LA", (4, 3), (200, 128)), (100, 100, 100)),
    "La": (Image.new("LA", (4, 3), (200, 128)).convert("La"), (100, 100, 100)),
    "P": (Image.new("RGB", (4, 3), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 20, 30)),
    "RGB": (Image.new("RGB", (4, 3), (10, 20, 30)), (10, 20, 30)),
    "RGBX": (Image.new("RGBX", (4, 3), (10, 20, 30, 0)), (10, 20, 30)),
    "RGBA": (Image.new("RGBA", (4, 3), (200, 100, 50, 128)), (100, 50, 25)),
    "RGBa": (Image.new("RGBA", (4, 3), (200, 100, 50, 128)).convert("RGBa"), (100, 50, 25)),
    "CMYK": (Image.new("CMYK", (4, 3), (255, 0, 0, 0)), (0, 255, 255)),
    "YCbCr": (Image.new("YCbCr", (4, 3), (76, 85, 255)), (254, 0, 0)),  # JFIF's red
    "HSV": (Image.new("HSV", (4, 3), (0, 255, 200)), (200, 0, 0)),
    "LAB": (Image.new("LAB", (4, 3), (255, 128, 128)), (255, 255, 255)),
    "I": (Image.new("I", (4, 3), 257 * 90), (90, 90, 90)),
    "F": (Image.new("F", (4, 3), 90.0), (90, 90, 90)),
    "I;16": (Image.new("I;16", (4, 3), 257 * 90), (90, 90, 90)),
    "I;16L": (Image.new("I;16L", (4, 3), 257 * 90), (90, 90, 90)),
    "I;16B": (Image.new("I;16B", (4, 3), 257 * 90), (90, 90, 90)),
    "I;16N": (Image.new("I;16N", (4, 3), 257 * 90), (90, 90, 90)),
}


def test_the_list_of_modes_is_whole() -> None:
    ImageMode.getmode("1")  # fills the module's table
    missing = set(ImageMode._modes if hasattr(ImageMode, "_modes") else Image.MODES) - set(_CONSTANT)
    assert missing <= {"PA", "BGR;15", "BGR;16", "BGR;24"}  # PA has a test of its own; BGR modes are gone


@pytest.mark.parametrize("mode", _CONSTANT)
def test_a_flat_image_of_each_mode(mode: str) -> None:
    image, wanted = _CONSTANT[mode]
    assert image.mode == mode
    found = rgb_of(image)
    assert (found.shape, found.dtype) == ((3, 4, 3), np.uint8)
    assert np.abs(found.astype(int) - wanted).max() <= (1 if mode in ("YCbCr", "LAB") else 0)


def test_a_palette_with_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 8, 9, 10])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = bytes([128, 255])
    assert rgb_of(image).tolist() == [[[100, 50, 25], [8, 9, 10]]]
    assert rgb_of(image.convert("PA")).tolist() == [[[100, 50, 25], [8, 9, 10]]]


def test_16_bit_greys_are_divided_by_257(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 300).round().astype(np.uint16).reshape(15, 20)
    Image.fromarray(values).save(tmp_path / "f_0.png")
    with open_frames(tmp_path, None, 25.0) as opened:
        assert opened.sequence is not None
        shown = opened.sequence.read(0)
    np.testing.assert_array_equal(shown, np.round(values[..., None] / 257).repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P transparent", "RGB", "RGBA", "RGB one colour clear", "I;16"])
def test_a_video_of_pngs_has_the_same_pixels(mode: str, tmp_path: Path) -> None:
    """FFmpeg's PNG decoder, our converter; Pillow's PNG decoder, our rules."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(np.kron(random.integers(0, 256, (6, 8, 4)), np.ones((4, 4, 1))).astype(np.uint8), "RGBA")
    extra = {}
    if mode == "P transparent":
        image = picture.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        extra["transparency"] = bytes([0, 128, 255, 30] * 64)
    elif mode == "RGB one colour clear":
        image = picture.convert("RGB")
        extra["transparency"] = image.getpixel((5, 5))
    elif mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (24, 32), dtype=np.uint16))
    else:
        image = picture.convert(mode)
    path = tmp_path / "f_0.png"
    image.save(path, **extra)
    run_ffmpeg("-i", path, "-c", "copy", tmp_path / "a.mkv")
    with open_frames(tmp_path, None, 25.0) as opened:
        assert opened.sequence is not None
        still = opened.sequence.read(0)
    np.testing.assert_allclose(read_video(tmp_path / "a.mkv")[0].astype(int), still, atol=1 if mode == "I;16" else 0)


_EXIF = {  # EXIF 2.32: where the stored first row and first column are seen
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("value", _EXIF)
def test_exif_orientations(value: int, ending: str, tmp_path: Path) -> None:
    picture = np.full((24, 40, 3), 128, np.uint8)
    picture[:8, :12], picture[-6:, :12] = 255, 0
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    Image.fromarray(picture).save(tmp_path / f"f_0.{ending}", exif=exif, **options)
    with open_frames(tmp_path, None, 25.0) as opened:
        assert opened.sequence is not None
        facts, shown = opened.sequence.facts, opened.sequence.read(0)
    wanted = _EXIF[value](picture)
    assert (facts.height, facts.width) == wanted.shape[:2]
    assert np.abs(shown.astype(int) - wanted).max() <= (3 if ending == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_damage_to_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "f_0.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    with open_frames(tmp_path, None, 25.0) as opened:
        assert opened.sequence is not None
        assert opened.sequence.read(0).tolist() == [[[1, 2, 3]] * 4] * 3
