"""Pictures of clips for people: contact sheets, tiled grids, originals beside reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

Frames = UInt8[np.ndarray, "t h w 3"]
_INK, _PAPER = (34, 34, 34), (255, 255, 255)
_LINE = 14  # pixels of a caption


def contact_sheet(clips: Sequence[Frames], labels: Sequence[str], columns: int = 6) -> Image.Image:
    """One row a clip: its caption above `columns` evenly spaced frames.

    Args:
        clips: RGB; all of the same height and width.
        labels: a caption a clip.
        columns: frames shown of a clip.
    """
    strips = [_strip(clip, columns) for clip in clips]
    height, width = strips[0].shape[:2]
    sheet = Image.new("RGB", (width, len(strips) * (height + _LINE)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        top = row * (height + _LINE)
        draw.text((2, top + 1), label, fill=_INK)
        sheet.paste(Image.fromarray(strip), (0, top + _LINE))
    return sheet


def _strip(clip: Frames, columns: int) -> UInt8[np.ndarray, "h w 3"]:
    chosen = np.linspace(0, len(clip) - 1, columns).round().astype(int)
    return np.concatenate(list(clip[chosen]), axis=1)


def grid_frames(clips: Sequence[Frames], columns: int, pad: int = 2) -> Frames:
    """Clips tiled into one clip, row by row; shorter ones keep their last frame.

    Args:
        clips: RGB; all of the same height and width.
        columns: clips in a row.
        pad: white pixels between clips.
    """
    length = max(len(clip) for clip in clips)
    height, width = clips[0].shape[1:3]
    rows = -(-len(clips) // columns)
    out = np.full((length, rows * (height + pad) - pad, columns * (width + pad) - pad, 3), 255, dtype=np.uint8)
    for number, clip in enumerate(clips):
        row, column = divmod(number, columns)
        top, left = row * (height + pad), column * (width + pad)
        index = np.minimum(np.arange(length), len(clip) - 1)
        out[:, top : top + height, left : left + width] = clip[index]
    return out


def side_by_side(originals: Sequence[Frames], reconstructions: Sequence[Frames]) -> Frames:
    """Originals in the upper row, each one's reconstruction below it."""
    return grid_frames([*originals, *reconstructions], columns=len(originals))
