"""How a decoded frame becomes the pixels of a clip: flipped and turned upright, cut to the box, resized, cropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vtok.video.errors import VideoError
from vtok.video.gather import GatherResize
from vtok.video.transforms import resize_crop_uint8, target_size

Policy = Literal["reference", "fast"]
PixelAspect = Literal["ignore", "apply"]
Box = tuple[int, int, int, int]


class Geometry:
    """What to do to every frame of a video; not for use by two threads at once.

    Args:
        rotation: degrees counter-clockwise: 0, 90, 180 or 270.
        resolution: height and width of the result, pixels; None: leave the size as it is.
        policy: `reference` resizes as the originals do; `fast` lets libswscale resize (it antialiases a little).
        max_pixels: frames larger than this are refused.
        bbox: left, top, right, bottom in stored pixels of the upright frame; None: all of it. A box makes `fast` act
            as `reference`, because libswscale would resize before the cut.
        mirrored: whether frames are flipped left to right before they are turned.
        pixel_aspect: width by height that a pixel of the upright frame is shown with; needs a resolution.
    """

    def __init__(
        self,
        rotation: int,
        resolution: int | None,
        policy: Policy,
        max_pixels: int,
        bbox: Box | None = None,
        *,
        mirrored: bool = False,
        pixel_aspect: float = 1.0,
    ) -> None:
        self.rotation, self.resolution, self.policy = rotation, resolution, policy
        self.max_pixels, self.bbox = max_pixels, bbox
        self.mirrored, self.pixel_aspect = mirrored, pixel_aspect
        self._resizes: dict[tuple[int, int, bool], GatherResize] = {}

    @property
    def resizes_here(self) -> bool:
        """Whether `finish` resizes, and not libswscale."""
        return self.resolution is not None and (self.policy == "reference" or self.bbox is not None)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which libswscale converts a frame of this size, both before the rotation.

        Raises:
            VideoError: too_large.
        """
        if height * width > self.max_pixels:
            raise VideoError("too_large", f"a frame of {width}x{height}, the limit is {self.max_pixels} pixels")
        if self.policy == "reference" or self.resolution is None or self.bbox is not None:
            return height, width
        if self.rotation in (90, 270):
            scaled_width, scaled_height = target_size(width, height, self.resolution, self.pixel_aspect)
            return scaled_height, scaled_width
        return target_size(height, width, self.resolution, self.pixel_aspect)

    def last_column(self, height: int, width: int) -> int:
        """How many columns of a frame, from its left, matter at most.

        The centre crop is the same whichever way the frame is turned.
        """
        if self.resolution is None or self.bbox is not None:
            return width
        if self.rotation in (90, 270):
            used = min(width, height * self.pixel_aspect)
        else:
            used = min(height / self.pixel_aspect, width)
        return min(width, math.ceil((width + used) / 2 + 2 * max(1.0, used / self.resolution)) + 1)

    def finish(self, frame: Sequence[np.ndarray]) -> UInt8[np.ndarray, "r q 3"]:
        """From the converted frame to the clip's pixels; where it only crops packed pixels, the result is a view.

        Args:
            frame: one array, uint8 (h, w, 3) RGB, or uint32 (h, w) with RGB in the first three bytes; or three of uint8
                (h, w): red, green and blue.

        Raises:
            VideoError: corrupt, if the box lies outside of the frame.
        """
        parts = [self._cut(part) for part in frame]
        if self.resizes_here:
            return self._resize(parts)
        if self.resolution is not None:
            size = self.resolution
            top, left = (parts[0].shape[0] - size) // 2, (parts[0].shape[1] - size) // 2
            parts = [part[top : top + size, left : left + size] for part in parts]
        if len(parts) == 1:
            return parts[0]
        out = np.empty((*parts[0].shape, len(parts)), np.uint8)
        for channel, part in enumerate(parts):
            out[..., channel] = part
        return out

    def _cut(self, part: np.ndarray) -> np.ndarray:
        """Upright, and the box of it."""
        if self.mirrored:
            part = part[:, ::-1]
        if self.rotation:
            part = np.rot90(part, self.rotation // 90)
        if self.bbox is None:
            return part
        left, top, right, bottom = self.bbox
        if not (0 <= left < right <= part.shape[1] and 0 <= top < bottom <= part.shape[0]):
            raise VideoError("corrupt", f"the box {self.bbox} is not inside of the frame")
        return part[top:bottom, left:right]

    def _resize(self, parts: list[np.ndarray]) -> np.ndarray:
        assert self.resolution is not None
        if parts[0].ndim == 3:
            return resize_crop_uint8(parts[0][None], self.resolution, self.pixel_aspect)[0]
        height, width = parts[0].shape
        packed = len(parts) == 1
        key = (height, width, packed)
        if key not in self._resizes:
            self._resizes = {key: GatherResize(height, width, self.resolution, self.pixel_aspect, packed=packed)}
        return self._resizes[key](parts)


def scale_box(
    box: tuple[float, float, float, float] | None, size: tuple[int, int] | None, width: int, height: int
) -> list[int] | None:
    """A box given for frames of `size` (width, height), for frames of width x height: rounded, and cut to the frame.

    Raises:
        VideoError: corrupt, if nothing of the box is inside of the frame.
    """
    if box is None:
        return None
    across, down = (width / size[0], height / size[1]) if size else (1.0, 1.0)
    left, right = (min(max(round(x * across), 0), width) for x in (box[0], box[2]))
    top, bottom = (min(max(round(y * down), 0), height) for y in (box[1], box[3]))
    if left >= right or top >= bottom:
        raise VideoError("corrupt", f"the box {box} is not inside of the frame of {width}x{height}")
    return [left, top, right, bottom]
