"""A still image as RGB, whatever Pillow's mode for it: upright, of 8 bits, opaque.

EXIF's eight orientations are followed. What is transparent is laid over black, as the frames of videos are. Of 16 bits
each grey is divided by 257, so that white stays white; Pillow itself reads 16-bit colours as their upper bytes.
Floating-point greys count as 0..255.
"""

from __future__ import annotations

import contextlib

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms

from vtok.video.pixels import over_black

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_STEP, _TOP = 257, 65535
_CLEAR = "transparency"  # of a palette's colours, or the one colour that is transparent


def rgb_of(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an opened image.

    Raises:
        Exception: whatever Pillow's readers raise at damage.
    """
    image.load()  # after this TIFF's orientation is done with
    turn = _turn(image)
    frame_hwc = _colours(image)
    if turn is not None:
        frame_hwc = np.asarray(Image.fromarray(frame_hwc).transpose(turn))
    return frame_hwc


def _turn(image: Image.Image) -> Image.Transpose | None:
    with contextlib.suppress(Exception):  # damage to what is said about an image is none to the image
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _colours(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    mode, clear = image.mode, image.info.get(_CLEAR)
    if mode in _DEEP:
        values_hw = np.asarray(image).astype(np.int64)
        grey_hw = (values_hw.clip(0, _TOP) + _STEP // 2) // _STEP
        if isinstance(clear, int):
            grey_hw[values_hw == clear] = 0
        return np.repeat(grey_hw.astype(np.uint8)[..., None], 3, axis=2)
    if mode == "RGBa":  # its colours are those over black already
        return np.asarray(image)[..., :3]
    if mode == "La":
        return np.repeat(np.asarray(image)[..., :1], 3, axis=2)
    if mode == "LAB":
        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        assert turned is not None
        return np.asarray(turned)
    if mode in ("LA", "PA", "RGBA") or clear is not None:
        pixels = np.asarray(image.convert("RGBA"))
        return over_black(pixels[..., :3], pixels[..., 3:])
    return np.asarray(image.convert("RGB"))
