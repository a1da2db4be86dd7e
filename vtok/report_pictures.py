"""Pictures for the report, inside the page as data URIs and kept under a size budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from schemas.errors import IntegrityError
from vtok.report_html import Html, tag

Frames = UInt8[np.ndarray, "t h w 3"]
MAX_BYTES = 1_200_000
"""Largest picture in the page; bigger ones are drawn again at half the size, until they fit."""
_PHOTO_SIDE = 64  # frames above this are stored as JPEG, smaller ones as PNG
_SHOWN_WIDTH = 640  # pixels that a small picture is enlarged to, about


def strip_picture(clip: Frames, columns: int, alt: str) -> Html:
    """`columns` evenly spaced frames of a clip, side by side with a gap of one pixel."""
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    _, height, width, _ = clip.shape
    strip = Image.new("RGB", (len(chosen) * (width + 1) - 1, height), (128, 128, 128))
    for column, index in enumerate(chosen):
        strip.paste(Image.fromarray(clip[index]), (column * (width + 1), 0))
    buffer = io.BytesIO()
    kind = "png" if height <= _PHOTO_SIDE else "jpeg"
    strip.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return _image(buffer.getvalue(), kind, strip.size, alt, shown=_SHOWN_WIDTH // 2)


def moving_picture(frames: Sequence[Image.Image], milliseconds: int, alt: str, shown: int = _SHOWN_WIDTH) -> Html:
    """An animated GIF, with its first frame for readers who prefer no motion.

    Args:
        frames: RGB, of one size.
        milliseconds: for each frame.
        alt: what is to be seen.
        shown: width to enlarge small pictures to, pixels, about.
    """
    frames = list(frames)
    data = _gif(frames, milliseconds)
    while len(data) > MAX_BYTES and min(frames[0].size) > 16:
        half = (frames[0].width // 2, frames[0].height // 2)
        frames = [frame.resize(half, Image.Resampling.BOX) for frame in frames]
        data = _gif(frames, milliseconds)
    still = io.BytesIO()
    frames[0].save(still, "JPEG", quality=80)
    source = tag("source", srcset=_uri(still.getvalue(), "jpeg"), media="(prefers-reduced-motion: reduce)")
    return tag("picture", source, _image(data, "gif", frames[0].size, alt, shown=shown))


def gif_picture(data: bytes, at: Path, alt: str, shown: int = _SHOWN_WIDTH) -> Html:
    """A GIF file, which `at` names.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["GIF"]) as image:
            milliseconds = int(image.info.get("duration", 125))
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged file leads it to
        raise IntegrityError(f"the picture cannot be read: {type(error).__name__}", at=str(at)) from None
    return moving_picture(frames, milliseconds, alt, shown)


def clips_picture(clips: Sequence[Frames], fps: float, columns: int, alt: str, shown: int = _SHOWN_WIDTH) -> Html:
    """Clips tiled into one moving picture."""
    from vtok.video.preview import grid_frames

    tiled = grid_frames(clips, columns)
    return moving_picture([Image.fromarray(frame) for frame in tiled], round(1000 / fps), alt, shown)


def _gif(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    """One palette for all frames, taken from all of them, so that colours do not flicker."""
    stacked = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    palette = stacked.quantize(colors=255, dither=Image.Dither.NONE)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _image(data: bytes, kind: str, size: tuple[int, int], alt: str, shown: int) -> Html:
    width, height = size
    factor = max(1, round(shown / width))
    return tag(
        "img",
        src=_uri(data, kind),
        alt=alt,
        width=width * factor,
        height=height * factor,
        class_="pixels" if factor > 1 else None,
    )


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
