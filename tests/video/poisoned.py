"""Converts frames of every width in a process whose fresh memory is full of junk, and says what came out.

    MALLOC_PERTURB_=90 python -m tests.video.poisoned

Prints a line for every conversion of white that is not white, then a hash over conversions of noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import av
import numpy as np

from vtok.video.geometry import Geometry, Policy
from vtok.video.pixels import Converter

FORMATS = (
    *("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuva420p", "yuv444p", "yuv440p", "yuv411p", "nv12"),
    *("yuv420p10le", "yuv422p10le", "gray", "gbrp", "rgb24", "bgra", "yuyv422"),
)
WIDTHS, HEIGHTS = range(2, 141), (36, 37)


def white(name: str, height: int, width: int) -> av.VideoFrame:
    """By the standards: limited range unless the format says otherwise."""
    frame = av.VideoFrame(width, height, name)
    full = name.startswith(("yuvj", "gray", "gbrp", "rgb", "bgr"))
    luma, chroma = (255, 255 if not name.startswith("yuvj") else 128) if full else (235, 128)
    for number, plane in enumerate(frame.planes):
        if "10" in name:
            values = np.full(plane.buffer_size // 2, (luma if number == 0 else chroma) << 2, np.uint16)
        elif name == "yuyv422":
            values = np.tile(np.array([luma, chroma], np.uint8), plane.buffer_size // 2)
        else:
            values = np.full(plane.buffer_size, (luma, chroma, chroma, 255)[number], np.uint8)
        plane.update(values.tobytes())
    return frame


def noise(name: str, height: int, width: int, random: np.random.Generator) -> av.VideoFrame:
    """Every byte of every row and its padding."""
    frame = av.VideoFrame(width, height, name)
    for plane in frame.planes:
        kind, top = (np.uint16, 1024) if "10" in name else (np.uint8, 256)
        plane.update(random.integers(0, top, plane.buffer_size // np.dtype(kind).itemsize, kind).tobytes())
    return frame


def ways(height: int, width: int) -> Iterator[Geometry]:
    """Every way to get at all of the frame: as it is, resized here, scaled by libswscale, and cut."""
    small = max(1, min(height, width) // 2)
    settings: list[tuple[int | None, Policy, tuple[int, int, int, int] | None]] = [
        *((None, "reference", None), (small, "reference", None), (small, "fast", None)),
        *((min(height, width), "fast", None), (small, "reference", (0, 0, width, height))),
    ]
    for resolution, policy, box in settings:
        yield Geometry(0, resolution, policy, 1 << 26, box)


def main() -> None:
    random, digest = np.random.default_rng(0), hashlib.sha256()
    for width in WIDTHS:
        for height in HEIGHTS:
            for name in FORMATS:
                frames = white(name, height, width), noise(name, height, width, random)
                for number, geometry in enumerate(ways(height, width)):
                    converter = Converter(geometry)
                    made = geometry.finish(converter(frames[0]))
                    if (made != 255).any():
                        places = np.argwhere((made != 255).any(axis=2))[0]
                        print(f"{name} {width}x{height} way {number}: {made.min()}..{made.max()} at {places}")
                    digest.update(np.ascontiguousarray(geometry.finish(converter(frames[1]))))
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
